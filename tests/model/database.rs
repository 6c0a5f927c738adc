//! Postgres: what it holds, and its transactions.
//!
//! Each method is one transaction of the program, under the name that the program has for it. Decisions are the
//! program's; what is done by hand here is what the program leaves to SQL, and [`crate::postgres`] compares it with SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_processors::decisions::TableState;
use freshet_sinks::apply::progress::{Part, PartProgress, SeqSet};
use freshet_sinks::apply::{self, ApplyBatch, Duplicates, Origin, Rows};
use freshet_sinks::bookmarks::adopt::adopted_bookmark;
use freshet_sinks::bookmarks::{Assigned, BookmarkMove, MoveDecision, decide_move, streams};
use freshet_sinks::ledger::register::find_version;
use freshet_sinks::ledger::{
    self, Change, Claim, Earlier, Event, Lease, Lost, Numbering, Object, ObjectState, ObjectVersion, Reason, Recorded,
    judge, lost_rows, may_claim, order, transition,
};
use freshet_sinks::lives::{self, Entry, Verdict};
use freshet_topics::log::{LogEnds, MEASUREMENTS_APART, truncated};
use freshet_topics::message::RawText;
use freshet_topics::stream::{self, Beginning};
use freshet_topics::{Order, PARSER_VERSION};
use uuid::Uuid;

use crate::faults::Mutation;
use crate::kafka::{Row, Topic};

pub(crate) const DOMAIN: &str = "health";
const LEASE: Duration = Duration::from_secs(60);

/// How rows are numbered for so many partitions. No contract changes here.
pub(crate) fn numbering(partitions: i32) -> Numbering {
    Numbering { parser_version: PARSER_VERSION, partitions, reading_rules: 7 }
}

/// An object with what stays in Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Registered {
    pub(crate) object: Arc<Object>,
    /// A lease runs.
    pub(crate) is_leased: bool,
    /// Where its place was given by a person, with `republish --as-new`: how many files had been dropped by then.
    pub(crate) as_new_after: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bookmark {
    pub(crate) next: i64,
    pub(crate) epoch: i64,
    pub(crate) stream: Uuid,
    pub(crate) halted: Option<WayOut>,
    pub(crate) accepted: Option<String>,
}

/// The command that ends a halt, as the halt names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WayOut {
    Adopt,
    SetToEnd,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Stored {
    /// Its place in the order of the data.
    pub(crate) order: Order,
    pub(crate) object: i64,
    /// What it says.
    pub(crate) content: usize,
}

/// A table with what belongs to it: the live one, or the shadow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Table {
    pub(crate) rows: BTreeMap<u8, Stored>,
    pub(crate) received: BTreeMap<Part, SeqSet>,
    /// How many rows each part was counted for. Nothing in Postgres: it shows what counts twice.
    pub(crate) counted: BTreeMap<Part, i64>,
    /// The greatest order received of each key. Nothing in Postgres: it shows what stands in the table wrongly.
    pub(crate) greatest: BTreeMap<u8, Order>,
}

impl Table {
    fn received_of(&self, object: i64, generation: i32) -> BTreeMap<i32, SeqSet> {
        let of = self.received.iter().filter(|(part, _)| (part.object, part.generation) == (object, generation));
        of.map(|(part, set)| (part.partition, set.clone())).collect()
    }

    /// Rows received of a reading.
    pub(crate) fn count(&self, object: i64, generation: i32) -> i64 {
        self.received_of(object, generation).values().map(SeqSet::len).sum()
    }

    /// Writes rows; whether a key says something else afterwards. What a later row of the same batch takes back is no change:
    /// of a batch only the newest row of a key is written.
    fn write<'r>(&mut self, rows: impl Iterator<Item = &'r Row>, mutation: Option<Mutation>) -> bool {
        let mut before = BTreeMap::new();
        for row in rows {
            let order = row.provenance().order();
            let greatest = self.greatest.entry(row.key).or_insert(order);
            *greatest = order.max(*greatest);
            let found = self.rows.get(&row.key);
            before.entry(row.key).or_insert(found.map(|found| found.content));
            if mutation == Some(Mutation::ArrivalOrderWins) || found.is_none_or(|found| order >= found.order) {
                self.rows.insert(row.key, Stored { order, object: row.object, content: row.content });
            }
        }
        before.iter().any(|(key, content)| self.rows.get(key).map(|stored| stored.content) != *content)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    /// By id, from 1.
    pub(crate) objects: Vec<Registered>,
    /// The upper halves of nonces, oldest first.
    pub(crate) lives: Vec<u64>,
    /// The stream that the domain is bound to, and its epoch.
    pub(crate) stream: Option<(Uuid, i64)>,
    pub(crate) bookmarks: BTreeMap<i32, Bookmark>,
    pub(crate) live: Table,
    /// The marks that are not published yet, by id.
    pub(crate) marks: BTreeSet<u16>,
    pub(crate) next_mark: u16,
    /// The shadow with its bookmarks, while one is being filled.
    pub(crate) shadow: Option<Box<(Table, BTreeMap<i32, i64>)>>,
}

/// What a processor hands over: the records of one partition from `expected` up to `next`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub(crate) partition: i32,
    pub(crate) expected: i64,
    pub(crate) next: i64,
    pub(crate) epoch: i64,
    pub(crate) rows: Vec<(i64, Row)>,
}

impl Batch {
    pub(crate) fn bookmark_move(&self) -> BookmarkMove {
        BookmarkMove { partition: self.partition, expected: self.expected, next: self.next, epoch: self.epoch }
    }

    /// As the program has it; the rows' values are left out.
    fn as_received(&self) -> apply::Batch {
        let origin = |(offset, row): &(i64, Row)| Origin {
            partition: self.partition,
            offset: *offset,
            provenance: row.provenance(),
            raw: RawText::default(),
        };
        let rows = Rows { origins: self.rows.iter().map(origin).collect(), ..Rows::default() };
        apply::Batch { bookmarks: vec![self.bookmark_move()], rows }
    }
}

impl Database {
    pub(crate) fn new(life: u64) -> Database {
        Database {
            objects: Vec::new(),
            lives: vec![life],
            stream: None,
            bookmarks: BTreeMap::new(),
            live: Table::default(),
            marks: BTreeSet::new(),
            next_mark: 0,
            shadow: None,
        }
    }

    pub(crate) fn object(&self, id: i64) -> &Arc<Object> {
        &self.objects[id as usize - 1].object
    }

    /// The versions of a key in the order of their places.
    pub(crate) fn of_key(&self, key: &str) -> Vec<&Object> {
        let of_key = self.objects.iter().filter(|one| one.object.version.key == key);
        let mut of_key: Vec<&Object> = of_key.map(|one| &*one.object).collect();
        of_key.sort_by_key(|object| object.src_ord);
        of_key
    }

    fn mark(&mut self) {
        self.marks.insert(self.next_mark);
        self.next_mark += 1;
    }

    /// `save`: changes an object if it still is what it was.
    fn save(&mut self, before: &Object, change: &Change<'_>, mutation: Option<Mutation>) -> bool {
        // Postgres that went back may not have it at all.
        let Some(row) = self.objects.get_mut(before.id as usize - 1) else { return false };
        let mut found = row.object.guard();
        if mutation == Some(Mutation::NoLeaseEpoch) {
            found.lease_epoch = before.lease_epoch;
        }
        if found != before.guard() {
            return false;
        }
        row.object = Arc::new(change.object.clone());
        match change.lease {
            Lease::Keep => {}
            Lease::Release => row.is_leased = false,
            Lease::Grant(..) => row.is_leased = true,
        }
        true
    }

    /// Whether a listing's entry is to be registered (`register::unknown`).
    pub(crate) fn is_unknown(&self, version: &ObjectVersion, mutation: Option<Mutation>) -> bool {
        let of_key = self.of_key(&version.key);
        if mutation == Some(Mutation::SameLooksKnown) && of_key.iter().any(|object| object.version == *version) {
            return false;
        }
        let known = find_version(&of_key, version);
        let is_for_good = matches!(mutation, Some(Mutation::GivenUpForGood | Mutation::ForeignAnswerEndsAVersion));
        let is_given_up = known.and_then(Object::reason).is_some_and(Reason::is_gone);
        known.is_none() || is_given_up && !is_for_good
    }

    /// The transaction `register`, for one key. `lower` is the lower half of a new object's nonce.
    pub(crate) fn register(&mut self, version: &ObjectVersion, lower: u64, mutation: Option<Mutation>) {
        let of_key = self.of_key(&version.key);
        let newest = of_key.last().map(|object| object.src_ord);
        if let Some(known) = find_version(&of_key, version).cloned() {
            if let Some(change) = transition(&known, Event::Reappear) {
                self.save(&known, &change, mutation);
            }
            return;
        }
        let second = order::second_for(version.last_modified.timestamp(), newest);
        let in_second = self.objects.iter().map(|one| one.object.src_ord).filter(|at| order::second_of(*at) == second);
        let src_ord = order::assign(second, newest, in_second.max());
        let id = self.objects.len() as i64 + 1;
        let life = *self.lives.last().expect("a life");
        let nonce = Uuid::from_u64_pair(life, lower);
        let object = Object { nonce, src_ord, ..Object::new(id, version.clone(), DOMAIN) };
        self.objects.push(Registered { object: Arc::new(object), is_leased: false, as_new_after: None });
    }

    /// The object that `claim` would take.
    fn claimable(&self) -> Option<&Object> {
        let may = |one: &&Registered| {
            let object = &one.object;
            let of_key = self.of_key(&object.version.key);
            let earlier = of_key.into_iter().filter(|it| it.src_ord < object.src_ord);
            let unfinished = earlier.filter(|it| matches!(it.state, ObjectState::Discovered | ObjectState::Publishing));
            // Of several the one that holds back most.
            may_claim(object.state, one.is_leased, false, unfinished.map(|it| it.attempts).min())
        };
        let free = self.objects.iter().filter(may).map(|one| &*one.object);
        // New files do not wait for those that are sent again.
        free.min_by_key(|object| (object.repairs > 0, object.src_ord))
    }

    pub(crate) fn may_claim(&self) -> bool {
        self.claimable().is_some()
    }

    /// The transaction `claim`.
    pub(crate) fn claim(&mut self, partitions: i32) -> Option<Claim> {
        let object = self.claimable()?.clone();
        let event = Event::Claim {
            owner: "listener",
            lease: LEASE,
            back_off: Duration::ZERO,
            numbering: numbering(partitions),
        };
        let change = transition(&object, event)?;
        let of_key = self.of_key(&object.version.key);
        let earlier = of_key.into_iter().rfind(|it| it.src_ord < object.src_ord).map(|it| Earlier {
            id: it.id,
            state: it.state,
            sha256: it.sha256.clone(),
            reading_rules: it.reading_rules,
            reason: it.reason().cloned(),
        });
        let received = self.live.count(object.id, object.generation);
        self.save(&object, &change, None);
        let numbering = Numbering {
            parser_version: change.object.parser_version.expect("frozen"),
            partitions: change.object.partition_count.expect("frozen"),
            reading_rules: change.object.reading_rules.expect("frozen"),
        };
        Some(Claim { object: change.object, numbering, earlier, received })
    }

    /// What a listener records of a claimed object: one transaction, `set_aside` and `give_up` among them. With
    /// [`Mutation::WakeApart`] the copies are left for [`Database::wake`].
    pub(crate) fn record(&mut self, claim: &mut Claim, event: Event<'_>, mutation: Option<Mutation>) -> Recorded {
        let Some(mut change) = transition(&claim.object, event) else { return Recorded::LeaseLost };
        let mut is_kept = true;
        if let Some(original) = change.object.reason().and_then(Reason::same_content_as) {
            let state = self.objects.get(original as usize - 1).map(|one| one.object.state);
            is_kept = mutation == Some(Mutation::WakeApart) || state.is_some_and(ObjectState::keeps_copies);
            if !is_kept {
                change = transition(&claim.object, Event::Release).expect("it is claimed");
            }
        }
        if !self.save(&claim.object, &change, mutation) {
            return Recorded::LeaseLost;
        }
        let woken = match change.wakes_copies && mutation != Some(Mutation::WakeApart) {
            true => self.wake(claim.object.id),
            false => 0,
        };
        claim.object = change.object;
        if is_kept { Recorded::Written { woken } } else { Recorded::OriginalGone }
    }

    /// Lets the copies of an object go their own way.
    pub(crate) fn wake(&mut self, original: i64) -> usize {
        let objects: Vec<Arc<Object>> = self.objects.iter().map(|one| Arc::clone(&one.object)).collect();
        let woken = objects.iter().filter(|object| {
            let change = transition(object, Event::OriginalGone { original });
            change.is_some_and(|change| self.save(object, &change, None))
        });
        woken.count()
    }

    /// What is lost of an object that S3 no longer has.
    pub(crate) fn lost(&self, object: &Object, mutation: Option<Mutation>) -> Lost {
        if mutation == Some(Mutation::LostByRepairs) && object.repairs == 0 {
            return Lost::Nothing;
        }
        lost_rows(object, &self.live.received_of(object.id, object.generation))
    }

    /// What a sweep does to each published object, and to those that were given up and of which rows arrived.
    fn swept(&self, topic: &Topic, mutation: Option<Mutation>) -> Vec<(Object, Event<'static>)> {
        let published = self.objects.iter().filter(|one| one.object.state == ObjectState::Published);
        let event = |one: &Registered| {
            let object = &one.object;
            let passed = self.has_passed(object);
            let received = self.live.count(object.id, object.generation);
            let rows = object.rows.unwrap_or(0);
            let truncated = !passed && self.is_truncated(object, topic, mutation);
            let event = match judge(passed, received, rows, truncated) {
                ledger::Verdict::Wait => return None,
                ledger::Verdict::Applied => Event::Complete,
                ledger::Verdict::Repair if truncated => {
                    Event::Repair { reason: Reason::LogTruncated, back_off: Duration::ZERO }
                }
                ledger::Verdict::Repair => {
                    Event::Repair { reason: Reason::RowsMissing { received, rows }, back_off: Duration::ZERO }
                }
            };
            Some(((**object).clone(), event))
        };
        let late = self.objects.iter().filter_map(|one| {
            let object = &one.object;
            let is_unread = matches!(object.reason(), Some(Reason::Gone { lost: Lost::Nothing, .. }));
            let received = self.live.received_of(object.id, object.generation);
            let lost = lost_rows(object, &received);
            let is_named = mutation != Some(Mutation::LateRowsUnnamed);
            (is_named && is_unread && !received.is_empty() && lost != Lost::Nothing)
                .then(|| ((**object).clone(), Event::RowsArrived { lost }))
        });
        published.filter_map(event).chain(late).collect()
    }

    /// Whether the bookmarks have passed the object's end. Ends of a stream that was given up are never reached.
    fn has_passed(&self, object: &Object) -> bool {
        let is_given_up = self.stream.is_some_and(|(stream, _)| Some(stream) != object.stream_id);
        let ends = object.end_offsets.iter().flatten();
        is_given_up
            || (0..).zip(ends).filter(|(_, end)| **end > 0).all(|(partition, end)| {
                let bookmark = self.bookmarks.get(&partition);
                bookmark.is_some_and(|it| Some(it.stream) == object.stream_id && it.next >= *end)
            })
    }

    /// Whether Kafka has lost what it had acknowledged of an object: two measurements, far enough apart, end before it.
    pub(crate) fn is_truncated(&self, object: &Object, topic: &Topic, mutation: Option<Mutation>) -> bool {
        let bound = self.stream.map(|(stream, _)| stream);
        let open = streams::compare(bound, stream::stream_of(&topic.firsts()));
        let (Some(ends), Some(stream), streams::Binding::Same(found)) = (&object.end_offsets, object.stream_id, open)
        else {
            return false;
        };
        let high = topic.partitions.iter().map(crate::kafka::Partition::high).collect();
        let earlier = LogEnds { stream_id: found, high, measured_at: Instant::now() };
        let later = LogEnds { measured_at: earlier.measured_at + MEASUREMENTS_APART, ..earlier.clone() };
        mutation != Some(Mutation::NoTruncationWatch) && !truncated(ends, stream, &earlier, &later).is_empty()
    }

    pub(crate) fn may_sweep(&self, topic: &Topic, mutation: Option<Mutation>) -> bool {
        !self.swept(topic, mutation).is_empty()
    }

    /// A sweep over all published objects.
    pub(crate) fn sweep(&mut self, topic: &Topic, mutation: Option<Mutation>) {
        for (object, event) in self.swept(topic, mutation) {
            let change = transition(&object, event).expect("it may happen");
            self.save(&object, &change, mutation);
        }
    }

    /// Which stream the domain is bound to, or would be at first sight of its topic.
    pub(crate) fn binding(&self, topic: &Topic) -> streams::Binding {
        let found = stream::stream_of(&topic.firsts());
        streams::compare(self.stream.map(|(stream, _)| stream).or(found), found)
    }

    /// Binds the domain to its topic on first sight, and says which stream it is bound to.
    pub(crate) fn bind(&mut self, topic: &Topic) -> streams::Binding {
        let binding = self.binding(topic);
        if let (None, streams::Binding::Same(stream)) = (self.stream, binding) {
            self.stream = Some((stream, 1));
        }
        binding
    }

    /// How each partition's beginning fits.
    pub(crate) fn beginnings(
        &self,
        topic: &Topic,
        stream: Uuid,
    ) -> BTreeMap<i32, (Beginning, Option<stream::FirstRecord>)> {
        let judged = topic.logs().into_iter().map(|(partition, log)| {
            let bookmark = self.bookmarks.get(&partition).filter(|bookmark| bookmark.stream == stream);
            let accepted = bookmark.and_then(|bookmark| bookmark.accepted.as_deref());
            (partition, (stream::judge_beginning(log.first, stream, accepted), Some(log.first)))
        });
        judged.collect()
    }

    /// The transaction `take_bookmarks`, for one partition.
    pub(crate) fn take(&mut self, partition: i32, stream: Uuid, low: i64) -> Assigned {
        let fresh = Bookmark { next: low, epoch: 0, stream, halted: None, accepted: None };
        let bookmark = self.bookmarks.entry(partition).or_insert(fresh);
        bookmark.epoch += 1;
        Assigned { partition, next_offset: bookmark.next, epoch: bookmark.epoch, stream_id: bookmark.stream }
    }

    /// The transaction `apply`. `Err`: the bookmark is not where this owner left it.
    pub(crate) fn apply(&mut self, batch: &Batch, mutation: Option<Mutation>, new_life: u64) -> Result<(), ()> {
        if self.move_bookmark(batch, mutation)? {
            self.write_rows(batch, mutation, new_life);
        }
        Ok(())
    }

    /// The first step of it; whether the rows are to be written. With [`Mutation::BookmarkApart`] a transaction of its own.
    pub(crate) fn move_bookmark(&mut self, batch: &Batch, mutation: Option<Mutation>) -> Result<bool, ()> {
        let found = self.bookmarks.get(&batch.partition).map(|bookmark| (bookmark.next, bookmark.epoch));
        let seen = match mutation {
            Some(Mutation::NoBookmarkEpoch) => found.map(|(next, _)| (next, batch.epoch)),
            _ => found,
        };
        match decide_move(seen, batch.bookmark_move()) {
            MoveDecision::Lost => Err(()),
            MoveDecision::AlreadyApplied => Ok(false),
            MoveDecision::Go => {
                let bookmark = self.bookmarks.get_mut(&batch.partition).expect("it was found");
                (bookmark.next, bookmark.halted) = (batch.next, None);
                Ok(true)
            }
        }
    }

    /// The other steps of it.
    pub(crate) fn write_rows(&mut self, batch: &Batch, mutation: Option<Mutation>, new_life: u64) {
        let ours = self.sift(batch, mutation, Some(new_life));
        let changed = receive(&mut self.live, &Batch { rows: ours, ..batch.clone() }, mutation);
        if changed {
            self.mark();
        }
    }

    /// Takes out the rows that are not this ledger's; one that it must have forgotten begins a new life.
    fn sift(&mut self, batch: &Batch, mutation: Option<Mutation>, new_life: Option<u64>) -> Vec<(i64, Row)> {
        let current = *self.lives.last().expect("a life");
        let (mut ours, mut is_forgotten) = (Vec::new(), false);
        for (offset, row) in &batch.rows {
            let entry = self.objects.get(row.object as usize - 1).map(|one| Entry {
                domain: DOMAIN.into(),
                nonce: if mutation == Some(Mutation::NoNonce) { row.nonce } else { one.object.nonce },
                generation: one.object.generation,
                src_ord: if mutation == Some(Mutation::NoNonce) { row.src_ord } else { one.object.src_ord },
                parser_version: one.object.parser_version,
                partition_count: one.object.partition_count,
            });
            match lives::judge(&row.provenance(), DOMAIN, entry.as_ref(), current.cast_signed()) {
                Verdict::Ours => ours.push((*offset, row.clone())),
                Verdict::PassedOver => {}
                Verdict::Forgotten => is_forgotten = true,
            }
        }
        if let Some(life) = new_life.filter(|_| is_forgotten) {
            self.begin_life(life);
        }
        ours
    }

    /// `lives::begin`: the outputs are derived from the tables again.
    pub(crate) fn begin_life(&mut self, life: u64) {
        self.lives.push(life);
        self.mark();
        if let Some((_, epoch)) = &mut self.stream {
            *epoch += 1;
        }
    }

    /// The transaction `adopt`.
    pub(crate) fn adopt(&mut self, topic: &Topic, new_stream: Uuid, mutation: Option<Mutation>) {
        let known = self.stream.map(|(stream, _)| stream);
        let adoption = stream::adopt(&topic.firsts(), known);
        let stream = adoption.stream.unwrap_or(new_stream);
        for (partition, log) in topic.logs() {
            let found = self.bookmarks.get(&partition);
            let next = match (mutation, found) {
                (Some(Mutation::AdoptKeepsBookmarks), Some(found)) if adoption.is_known_log => found.next,
                _ => adopted_bookmark(adoption.is_known_log, found.map(|it| it.next), log.ends),
            };
            let is_unfit = stream::judge_beginning(log.first, stream, None) == Beginning::Unfit;
            let accepted = log.first.accepted_as().filter(|_| is_unfit);
            let epoch = found.map_or(1, |it| it.epoch + 1);
            self.bookmarks.insert(partition, Bookmark { next, epoch, stream, halted: None, accepted });
        }
        self.stream = Some((stream, self.stream.map_or(1, |(_, epoch)| epoch + 1)));
        for id in 1..=self.objects.len() as i64 {
            let object = Arc::clone(self.object(id));
            if let Some(change) = transition(&object, Event::Adopt) {
                self.save(&object, &change, None);
            }
        }
    }

    /// `bookmarks set --to end`: the way out where the log lost what was applied.
    pub(crate) fn set_to_end(&mut self, partition: i32, high: i64) {
        let bookmark = self.bookmarks.get_mut(&partition).expect("it is halted");
        if let Some((_, epoch)) = self.stream.as_mut().filter(|_| high < bookmark.next) {
            *epoch += 1;
        }
        (bookmark.next, bookmark.halted) = (high, None);
        bookmark.epoch += 1;
    }

    /// `republish`.
    pub(crate) fn send_again(&mut self, id: i64) {
        let object = Arc::clone(self.object(id));
        if let Some(change) = transition(&object, Event::SendAgain) {
            self.save(&object, &change, None);
        }
    }

    /// `republish --as-new`.
    pub(crate) fn send_as_new(&mut self, id: i64, dropped: usize, mutation: Option<Mutation>) {
        let newest = self.objects.iter().map(|one| one.object.src_ord).max().unwrap_or(0);
        let src_ord = match mutation {
            Some(Mutation::AsNewByClock) => order::first_of(order::second_of(newest) + 600),
            _ => newest + 1,
        };
        let object = Arc::clone(self.object(id));
        if let Some(change) = transition(&object, Event::SendAsNew { src_ord }) {
            self.save(&object, &change, None);
            self.objects[id as usize - 1].as_new_after = Some(dropped);
        }
    }

    /// One record of a replay in place: what was received is offered once more, and counts no more.
    pub(crate) fn correct(&mut self, row: &Row, mutation: Option<Mutation>) {
        let part = Part { object: row.object, generation: row.generation, partition: partition_of(row) };
        let batch = Batch { partition: part.partition, expected: 0, next: 0, epoch: 0, rows: vec![(0, row.clone())] };
        let ours = self.sift(&batch, mutation, None);
        let was_received = self.live.received.get(&part).is_some_and(|set| holds(set, row.seq));
        let greatest = self.live.greatest.clone();
        if was_received && self.live.write(ours.iter().map(|(_, row)| row), mutation) {
            self.mark();
        }
        self.live.greatest = greatest;
    }

    /// Partition → next offset.
    fn ends(&self) -> BTreeMap<i32, i64> {
        self.bookmarks.iter().map(|(partition, bookmark)| (*partition, bookmark.next)).collect()
    }

    /// Reads on into the shadow, as far as the live table is.
    pub(crate) fn fill_shadow(&mut self, topic: &Topic) {
        let (mut table, ends): (Table, BTreeMap<i32, i64>) = match self.shadow.take() {
            Some(shadow) => *shadow,
            None => (Table::default(), BTreeMap::new()),
        };
        let bookmarks = self.ends();
        for (at, partition) in (0..).zip(&topic.partitions) {
            let until = bookmarks.get(&at).copied().unwrap_or(0).min(partition.high());
            for offset in ends.get(&at).copied().unwrap_or(0).max(partition.low)..until {
                let crate::kafka::Record::Row(row) = &partition.records[offset as usize] else { continue };
                let batch = Batch { partition: at, expected: 0, next: 0, epoch: 0, rows: vec![(offset, row.clone())] };
                let rows = self.sift(&batch, None, None);
                receive(&mut table, &Batch { rows, ..batch }, None);
            }
        }
        self.shadow = Some(Box::new((table, bookmarks)));
    }

    /// Whether the shadow may take the table's place (`shadow::swap`).
    pub(crate) fn may_swap(&self, mutation: Option<Mutation>) -> bool {
        let Some((shadow, at)) = self.shadow.as_deref() else { return false };
        let is_missing = |(part, live): (&Part, &SeqSet)| {
            let Some(one) = self.objects.get(part.object as usize - 1) else { return true };
            let object = &one.object;
            if mutation == Some(Mutation::SwapNewestReadingOnly) && object.generation > part.generation {
                return false;
            }
            let has = shadow.received.get(part).cloned().unwrap_or_default();
            let lacks = |seq: &i64| holds(live, *seq) && !holds(&has, *seq);
            let newest = shadow.count(part.object, object.generation);
            let is_newer_whole = object.generation > part.generation && object.rows.is_some_and(|rows| newest >= rows);
            (0..SEQS_MAX).any(|seq| lacks(&seq)) && !is_newer_whole
        };
        *at == self.ends() && !self.live.received.iter().any(is_missing)
    }

    /// Puts the shadow in the table's place.
    pub(crate) fn swap(&mut self) {
        let (mut shadow, _) = *self.shadow.take().expect("there is one");
        // What was ever received stays the measure: rows that vanish with the swap are lost.
        for (key, order) in &self.live.greatest {
            let greatest = shadow.greatest.entry(*key).or_insert(*order);
            *greatest = (*order).max(*greatest);
        }
        self.live = shadow;
        self.mark();
        if let Some((_, epoch)) = &mut self.stream {
            *epoch += 1;
        }
        for bookmark in self.bookmarks.values_mut() {
            bookmark.epoch += 1;
        }
    }

    /// What a publisher's snapshot says of how far the tables are.
    pub(crate) fn table_state(&self) -> TableState {
        let epochs = self.stream.iter().map(|(_, epoch)| (DOMAIN.to_owned(), *epoch)).collect();
        TableState {
            lives: self.lives.iter().map(|life| lives::spelled(life.cast_signed())).collect(),
            epochs,
            bookmarks: BTreeMap::from([(DOMAIN.to_owned(), self.ends())]),
        }
    }

    /// What the table says, by key.
    pub(crate) fn content(&self) -> BTreeMap<u8, usize> {
        self.live.rows.iter().map(|(key, stored)| (*key, stored.content)).collect()
    }
}

/// Counts and writes the rows of a batch that were not received before; whether any of them changed what a key says.
fn receive(table: &mut Table, batch: &Batch, mutation: Option<Mutation>) -> bool {
    let received = batch.as_received();
    let all = received.all_rows();
    let mut progress: BTreeMap<Part, PartProgress> = BTreeMap::new();
    for part in all.iter().map(|row| row.part()) {
        let received = table.received.get(&part).cloned().unwrap_or_default();
        let received = if mutation == Some(Mutation::NoSequenceCheck) { SeqSet::default() } else { received };
        progress.entry(part).or_default().received = received;
    }
    let sorted = ApplyBatch::sort_out(&all, progress, Duplicates::TakeOut);
    let fresh: BTreeSet<i64> = sorted.rows.iter().map(|row| row.origin().offset).collect();
    for row in &sorted.rows {
        *table.counted.entry(row.part()).or_default() += 1;
    }
    for (part, progress) in &sorted.progress {
        let set = table.received.entry(*part).or_default();
        if mutation == Some(Mutation::NoSequenceCheck) {
            for seq in 0..SEQS_MAX {
                if holds(&progress.received, seq) {
                    set.insert(seq);
                }
            }
        } else {
            set.clone_from(&progress.received);
        }
    }
    let written = batch.rows.iter().filter(|(offset, _)| fresh.contains(offset)).map(|(_, row)| row);
    table.write(written, mutation)
}

/// No file of the model has more rows.
const SEQS_MAX: i64 = 16;

fn holds(set: &SeqSet, seq: i64) -> bool {
    !set.clone().insert(seq)
}

/// The model's partitioning: by the table key.
pub(crate) fn partition_of(row: &Row) -> i32 {
    i32::from(row.key) % row.partitions
}
