//! What each step does.

use std::sync::Arc;

use freshet_ingest::decisions::{self as ingest, Fault as Answer, Refusal};
use freshet_processors::decisions as process;
use freshet_sinks::bookmarks::streams::Binding;
use freshet_sinks::ledger::{Event, Recorded, ResumePoint, nothing_to_do};
use freshet_sinks::outputs::Manifest;
use uuid::Uuid;

use crate::database::{Batch, DOMAIN, Registered, WayOut, numbering, partition_of};
use crate::faults::{Fault, Mutation};
use crate::kafka::{Record, Row};
use crate::possible::Action;
use crate::properties::ledger_at_rest;
use crate::world::{Open, Owned, Processor, Publisher, Scenario, Stage, Verdict, Version, Work, World};

impl World {
    /// The world after a step.
    pub(crate) fn after(&self, scenario: &Scenario, action: Action) -> World {
        let mut world = self.clone();
        world.take_step(scenario, action);
        world
    }

    fn take_step(&mut self, scenario: &Scenario, action: Action) {
        let mutation = scenario.mutation;
        if let Some(fault) = fault_of(action) {
            self.budget.spend(fault);
        }
        match action {
            Action::Put => self.put(scenario),
            Action::Register(key) => self.register(scenario, key),
            Action::Claim(listener) => self.claim(scenario, listener),
            Action::Ask(listener) => self.ask(scenario, listener, None),
            Action::ForeignAnswer(listener) => {
                self.ask(scenario, listener, Some(Refusal { status: Some(404), ..Refusal::default() }));
            }
            Action::Send(listener) => self.send(scenario, listener, Sending::Whole),
            Action::CrashMidChunk(listener) => {
                self.send(scenario, listener, Sending::FirstRow);
                self.listeners[listener] = None;
            }
            Action::AckLost(listener) => self.send(scenario, listener, Sending::Unacknowledged),
            Action::Delay(listener) => self.send(scenario, listener, Sending::Late),
            Action::Duplicate(listener) => self.send(scenario, listener, Sending::Twice),
            Action::Record(listener) => self.record(scenario, listener),
            Action::LeaseEnds(id) | Action::LeaseRunsOut(id) => {
                self.database.objects[id as usize - 1].is_leased = false;
            }
            Action::CrashListener(listener) => self.listeners[listener] = None,
            Action::Sweep => self.database.sweep(&self.topic, mutation),
            Action::Take(processor, partition) | Action::Rebalance(processor, partition) => {
                self.take(processor, partition);
            }
            Action::Rejoin(processor, partition) => self.rejoin(processor, partition),
            Action::Read(processor, partition, count) => self.read(processor, partition, count),
            Action::Apply(processor) => self.apply(scenario, processor, true),
            Action::CommitLost(processor) => self.apply(scenario, processor, false),
            Action::CrashProcessor(processor) => self.crash_processor(processor),
            Action::ReadPointer(publisher) => self.publishers[publisher] = Publisher::Looked(self.outputs.clone()),
            Action::Derive(publisher) => self.derive(publisher),
            Action::Swap(publisher) => self.swap(scenario, publisher, true),
            Action::PutLost(publisher) => self.swap(scenario, publisher, false),
            Action::Resolve(publisher) => self.resolve(publisher),
            Action::DeleteMarks(publisher) => self.delete_marks(publisher),
            Action::CrashPublisher(publisher) => self.publishers[publisher] = Publisher::Idle,
            Action::WriteStreamRecord(partition) => self.write_stream_record(partition),
            Action::Deliver(index) => {
                let (partition, record) = self.topic.delayed.remove(index);
                self.topic.append(partition, record);
            }
            Action::Adopt => self.adopt(mutation),
            Action::SetToEnd(partition) => self.set_to_end(partition),
            Action::Restored => self.begin_life(scenario),
            Action::Backup => self.backup = Some(Box::new(self.database.clone())),
            Action::Restore => self.restore(),
            Action::Retention(partition) => self.topic.partitions[partition].low += 1,
            Action::LogCut(partition) => {
                self.topic.partitions[partition].records.pop();
            }
            Action::MakeTopicAgain => self.topic.make(scenario.partitions),
            Action::SendAgain(id) => self.database.send_again(id),
            Action::SendAsNew(id) => self.database.send_as_new(id, self.dropped, mutation),
            Action::Delete(key) => {
                self.bucket.remove(key);
            }
            Action::Replay => self.replay(mutation),
            Action::FillShadow => self.database.fill_shadow(&self.topic),
            Action::SwapShadow => self.database.swap(),
        }
    }

    /// Somebody drops the next file.
    fn put(&mut self, scenario: &Scenario) {
        let (key, _, _) = scenario.puts[self.dropped];
        self.bucket.insert(key, self.dropped);
        self.dropped += 1;
    }

    fn register(&mut self, scenario: &Scenario, key: &'static str) {
        let nonce = self.draw();
        let version = scenario.version(self.bucket[key]);
        let known = self.database.objects.len();
        self.database.register(&version, nonce, scenario.mutation);
        // The same bytes within the same second are the same version to S3, and keep their place.
        if self.database.objects.len() > known {
            self.look_at_order(key);
        }
    }

    /// A file that was dropped after another was sent as new stands above that one.
    fn look_at_order(&mut self, key: &str) {
        let put = self.bucket[key];
        let of_key = self.database.of_key(key);
        let Some(newest) = of_key.last() else { return };
        let is_above = |one: &Registered| {
            one.as_new_after.is_some_and(|dropped| put >= dropped) && one.object.src_ord > newest.src_ord
        };
        if self.database.objects.iter().any(is_above) {
            self.wrong = Some("a file that was dropped later stands below one that was sent as new before");
        }
    }

    fn claim(&mut self, scenario: &Scenario, listener: usize) {
        self.database.bind(&self.topic);
        let open = self.gate(scenario).expect("the gate is open");
        let claim = self.database.claim(open.partitions);
        self.listeners[listener] = claim.map(|claim| Work { claim, open, stage: Stage::Claimed });
    }

    fn work(&mut self, listener: usize) -> &mut Work {
        self.listeners[listener].as_mut().expect("it works")
    }

    /// A listener asks S3 for its version; `foreign` is an answer that is not S3's.
    fn ask(&mut self, scenario: &Scenario, listener: usize, foreign: Option<Refusal<'static>>) {
        let work = self.listeners[listener].clone().expect("it works");
        let (claim, open) = (&work.claim, work.open);
        let key = claim.object.version.key.as_str();
        // By ETag: a key that was written with the same content again is the same to S3.
        let held = self.bucket.get(key).map(|put| scenario.version(*put));
        let is_there = held.as_ref().is_some_and(|held| held.etag == claim.object.version.etag);
        let code = if held.is_some() { "PreconditionFailed" } else { "NoSuchKey" };
        let refusal = foreign.or((!is_there).then_some(Refusal { code: Some(code), ..Refusal::default() }));
        let is_listed = held.as_ref() == Some(&claim.object.version);
        let ends = scenario.mutation == Some(Mutation::ForeignAnswerEndsAVersion);
        let stage = match refusal.map(ingest::fault) {
            Some(Answer::Gone) if !is_listed => Stage::Recording(Verdict::Gone),
            Some(_) if ends => Stage::Recording(Verdict::Gone),
            Some(_) => Stage::Recording(Verdict::Fail),
            None => self.begin(scenario, claim, open),
        };
        self.work(listener).stage = stage;
    }

    /// Where the publishing of a version begins that is there.
    fn begin(&self, scenario: &Scenario, claim: &freshet_sinks::ledger::Claim, open: Open) -> Stage {
        let partitions = claim.numbering.partitions as usize;
        let content = scenario.described(scenario.content_of(&claim.object.version));
        match ingest::start(claim, numbering(open.partitions), open.stream) {
            ingest::Start::NextGeneration => Stage::Recording(Verdict::OpenGeneration),
            ingest::Start::ResumePoint => Stage::Opened(claim.object.resume_point(partitions)),
            ingest::Start::Beginning => match nothing_to_do(claim, &content.sha256) {
                Some(original) => Stage::Recording(Verdict::SetAside(original)),
                None => {
                    let none = vec![0; partitions];
                    Stage::Opened(ResumePoint { byte: 0, line: 1, row: 0, seqs: none.clone(), ends: none })
                }
            },
        }
    }

    /// Sends the next chunk.
    fn send(&mut self, scenario: &Scenario, listener: usize, sending: Sending) {
        let work = self.listeners[listener].clone().expect("it works");
        let Stage::Opened(mut point) = work.stage.clone() else { unreachable!() };
        let rows = &scenario.contents[scenario.content_of(&work.claim.object.version)];
        let end = (point.row as usize + scenario.chunk_rows).min(rows.len());
        for (at, key) in rows.iter().enumerate().take(end).skip(point.row as usize) {
            let row = row_of(scenario, &work.claim, *key, at as i64, &point);
            let partition = partition_of(&row) as usize;
            let record = Record::Row(row);
            if sending == Sending::Late {
                self.topic.delayed.push((partition, record));
            } else {
                let past = self.topic.append(partition, record.clone());
                point.ends[partition] = past.max(point.ends[partition]);
                if sending == Sending::Twice {
                    point.ends[partition] = self.topic.append(partition, record);
                }
            }
            point.seqs[partition] += 1;
            if sending == Sending::FirstRow {
                return;
            }
        }
        point.row = end as i64;
        point.byte = point.row;
        let verdict = match sending {
            Sending::Unacknowledged | Sending::Late => Verdict::Fail,
            _ if end == rows.len() => Verdict::Publish(point),
            _ => Verdict::Checkpoint(point),
        };
        self.work(listener).stage = Stage::Recording(verdict);
    }

    /// Writes to the ledger what came of it, and goes on.
    fn record(&mut self, scenario: &Scenario, listener: usize) {
        let mutation = scenario.mutation;
        let mut work = self.listeners[listener].take().expect("it works");
        let Stage::Recording(verdict) = work.stage.clone() else { unreachable!() };
        let content = scenario.described(scenario.content_of(&work.claim.object.version));
        let before = self.database.objects.get(work.claim.object.id as usize - 1).map(|one| one.object.guard());
        let id = work.claim.object.id;
        let event = match &verdict {
            Verdict::Wake(original) => {
                self.database.wake(*original);
                return;
            }
            Verdict::Gone => {
                Event::Gone { detail: "gone".into(), lost: self.database.lost(&work.claim.object, mutation) }
            }
            other => other.event(work.open, &content).expect("it is written as it is"),
        };
        let guard = work.claim.object.guard();
        let recorded = self.database.record(&mut work.claim, event, mutation);
        if !recorded.is_written() {
            return;
        }
        if before != Some(guard) {
            self.wrong = Some("a listener wrote to an object that was another's by then");
        }
        let next = match verdict {
            Verdict::Checkpoint(point) if self.gate(scenario) == Some(work.open) => Stage::Opened(point),
            Verdict::Checkpoint(_) => Stage::Recording(Verdict::Release),
            Verdict::OpenGeneration => {
                work.claim.numbering = numbering(work.open.partitions);
                work.claim.received = 0;
                Stage::Claimed
            }
            Verdict::Gone if mutation == Some(Mutation::WakeApart) && recorded == (Recorded::Written { woken: 0 }) => {
                Stage::Recording(Verdict::Wake(id))
            }
            _ => return,
        };
        self.listeners[listener] = Some(Work { stage: next, ..work });
    }

    /// Gives a partition to a processor, which takes its bookmark. A former owner is not asked.
    fn take(&mut self, processor: usize, partition: i32) {
        let stream = match self.database.bind(&self.topic) {
            Binding::Same(known) | Binding::Other { known, .. } => known,
            Binding::Unknown => return,
        };
        let log = self.topic.partitions[partition as usize].log();
        let assigned = self.database.take(partition, stream, log.ends.low);
        let bookmark = self.database.bookmarks.get_mut(&partition).expect("it is taken");
        let accepted = bookmark.accepted.clone().filter(|_| bookmark.stream == stream);
        let start = process::decide_start(DOMAIN, &assigned, accepted.as_deref(), log);
        bookmark.halted = match start {
            process::Start::At(_) => None,
            process::Start::Halt(reason) if reason.contains("`freshet bookmarks set") => Some(WayOut::SetToEnd),
            process::Start::Halt(_) => Some(WayOut::Adopt),
        };
        let owned = Owned {
            position: assigned.next_offset,
            expected: assigned.next_offset,
            epoch: assigned.epoch,
            is_halted: bookmark.halted.is_some(),
        };
        self.group.insert(partition, processor);
        let has = &mut self.processors[processor];
        has.owned.insert(partition, owned);
        // An assignment begins anew: what was read before it is dropped.
        has.batch = has.batch.take().filter(|batch| batch.partition != partition);
    }

    /// A processor leaves a partition. Nobody has it then, unless the group gave it to another.
    fn rejoin(&mut self, processor: usize, partition: i32) {
        self.processors[processor].owned.remove(&partition);
        if self.group.get(&partition) == Some(&processor) {
            self.group.remove(&partition);
        }
    }

    fn read(&mut self, processor: usize, partition: i32, count: usize) {
        let owned = self.processors[processor].owned[&partition];
        let log = &self.topic.partitions[partition as usize];
        let next = owned.position + count as i64;
        let rows = (owned.position..next).filter_map(|offset| match &log.records[offset as usize] {
            Record::Row(row) => Some((offset, row.clone())),
            Record::Stream(_) => None,
        });
        let batch = Batch { partition, expected: owned.expected, next, epoch: owned.epoch, rows: rows.collect() };
        let has = &mut self.processors[processor];
        has.owned.insert(partition, Owned { position: next, ..owned });
        has.batch = Some(batch);
    }

    /// Applies the batch; unless it is answered, the processor tries once more.
    fn apply(&mut self, scenario: &Scenario, processor: usize, is_answered: bool) {
        let mutation = scenario.mutation;
        let batch = self.processors[processor].batch.clone().expect("there is a batch");
        let epoch = self.database.bookmarks.get(&batch.partition).map(|bookmark| bookmark.epoch);
        // Drawn only if it is needed.
        let (life, lives) = ((self.drawn + 1) << 32, self.database.lives.len());
        if self.processors[processor].is_moved {
            self.database.write_rows(&batch, mutation, life);
            self.processors[processor].is_moved = false;
        } else if mutation == Some(Mutation::BookmarkApart) {
            match self.database.move_bookmark(&batch, mutation) {
                Ok(true) => {
                    self.processors[processor].is_moved = true;
                    return;
                }
                Ok(false) => {}
                Err(()) => return self.lose(processor, batch.partition),
            }
        } else {
            match self.database.apply(&batch, mutation, life) {
                Ok(()) if epoch != Some(batch.epoch) => self.wrong = Some("a former owner of a partition wrote to it"),
                Ok(()) => {}
                Err(()) => return self.lose(processor, batch.partition),
            }
        }
        if self.database.lives.len() > lives {
            self.draw();
        }
        if is_answered {
            let has = &mut self.processors[processor];
            has.batch = None;
            if let Some(owned) = has.owned.get_mut(&batch.partition) {
                owned.expected = batch.next;
            }
        }
    }

    /// The bookmark is not where the processor left it: it drops what it has, and joins again.
    fn lose(&mut self, processor: usize, partition: i32) {
        self.processors[processor].batch = None;
        self.rejoin(processor, partition);
    }

    fn crash_processor(&mut self, processor: usize) {
        self.processors[processor] = Processor::default();
        self.group.retain(|_, owner| *owner != processor);
    }

    fn derive(&mut self, publisher: usize) {
        let Publisher::Looked(seen) = self.publishers[publisher].clone() else { unreachable!() };
        let tables = self.database.table_state();
        if seen.as_ref().is_some_and(|seen| process::why_behind(&seen.manifest(), &tables).is_some()) {
            self.publishers[publisher] = Publisher::Idle;
            return;
        }
        let next = Arc::new(Version {
            number: seen.as_ref().map_or(0, |seen| seen.number) + 1,
            lives: tables.lives,
            epochs: tables.epochs,
            bookmarks: tables.bookmarks,
            content: self.database.content(),
        });
        let marks = self.database.marks.iter().copied().collect();
        self.publishers[publisher] = Publisher::Derived { seen, next, marks };
    }

    fn swap(&mut self, scenario: &Scenario, publisher: usize, is_answered: bool) {
        let Publisher::Derived { seen, next, marks } = self.publishers[publisher].clone() else { unreachable!() };
        let is_unconditional = scenario.mutation == Some(Mutation::UnconditionalPointer);
        let is_swapped = self.outputs == seen || is_unconditional;
        if is_swapped {
            if self.outputs.as_ref().is_some_and(|found| next.is_behind(found)) {
                self.wrong = Some("the outputs went back");
            }
            self.outputs = Some(Arc::clone(&next));
        }
        self.publishers[publisher] = match (is_answered, is_swapped) {
            (false, _) => Publisher::Unsure { next, marks },
            (true, true) => Publisher::Swapped(marks),
            (true, false) => Publisher::Idle,
        };
    }

    /// A publisher finds out whether its swap had happened.
    fn resolve(&mut self, publisher: usize) {
        let Publisher::Unsure { next, marks } = self.publishers[publisher].clone() else { unreachable!() };
        let is_mine = self.outputs.as_ref() == Some(&next);
        self.publishers[publisher] = if is_mine { Publisher::Swapped(marks) } else { Publisher::Idle };
    }

    fn delete_marks(&mut self, publisher: usize) {
        let Publisher::Swapped(marks) = &self.publishers[publisher] else { unreachable!() };
        self.database.marks.retain(|mark| !marks.contains(mark));
        self.publishers[publisher] = Publisher::Idle;
    }

    fn adopt(&mut self, mutation: Option<Mutation>) {
        self.mended += 1;
        let stream = Uuid::from_u64_pair(9, self.draw());
        self.database.adopt(&self.topic, stream, mutation);
    }

    fn set_to_end(&mut self, partition: i32) {
        self.mended += 1;
        let high = self.topic.partitions[partition as usize].high();
        self.database.set_to_end(partition, high);
    }

    /// A person says that the database was restored.
    fn begin_life(&mut self, scenario: &Scenario) {
        // All but the outputs is well by then, also where nobody says anything.
        self.wrong = ledger_at_rest(scenario, self);
        self.is_restore_unsaid = false;
        let life = self.draw() << 32;
        self.database.begin_life(life);
    }

    fn restore(&mut self) {
        self.database = *self.backup.take().expect("there is one");
        self.is_restore_unsaid = true;
    }

    /// Every row that the topic holds, up to the bookmarks, is offered to the table once more.
    fn replay(&mut self, mutation: Option<Mutation>) {
        for (partition, bookmark) in self.database.bookmarks.clone() {
            let log = self.topic.partitions[partition as usize].clone();
            for offset in log.low..bookmark.next.min(log.high()) {
                if let Record::Row(row) = &log.records[offset as usize] {
                    self.database.correct(row, mutation);
                }
            }
        }
    }
}

/// What a step takes from the budget.
fn fault_of(action: Action) -> Option<Fault> {
    match action {
        Action::ForeignAnswer(_) => Some(Fault::ForeignAnswer),
        Action::CrashMidChunk(_) | Action::CrashListener(_) | Action::CrashProcessor(_) | Action::CrashPublisher(_) => {
            Some(Fault::Crash)
        }
        Action::AckLost(_) => Some(Fault::AckLost),
        Action::Delay(_) => Some(Fault::Delay),
        Action::Duplicate(_) => Some(Fault::Duplicate),
        Action::LeaseRunsOut(_) => Some(Fault::LeaseRunsOut),
        Action::Rebalance(..) => Some(Fault::Rebalance),
        Action::CommitLost(_) => Some(Fault::CommitLost),
        Action::PutLost(_) => Some(Fault::PutLost),
        Action::Restore => Some(Fault::Restore),
        Action::Retention(_) => Some(Fault::Retention),
        Action::LogCut(_) => Some(Fault::LogCut),
        Action::MakeTopicAgain => Some(Fault::TopicMadeAgain),
        Action::SendAgain(_) => Some(Fault::SendAgain),
        Action::SendAsNew(_) => Some(Fault::SendAsNew),
        Action::Delete(_) => Some(Fault::Delete),
        Action::Replay => Some(Fault::Replay),
        Action::FillShadow | Action::SwapShadow => Some(Fault::Shadow),
        Action::Put
        | Action::Register(_)
        | Action::Claim(_)
        | Action::Ask(_)
        | Action::Send(_)
        | Action::Record(_)
        | Action::LeaseEnds(_)
        | Action::Sweep
        | Action::Take(..)
        | Action::Rejoin(..)
        | Action::Read(..)
        | Action::Apply(_)
        | Action::ReadPointer(_)
        | Action::Derive(_)
        | Action::Swap(_)
        | Action::Resolve(_)
        | Action::DeleteMarks(_)
        | Action::WriteStreamRecord(_)
        | Action::Deliver(_)
        | Action::Adopt
        | Action::SetToEnd(_)
        | Action::Restored
        | Action::Backup => None,
    }
}

impl Version {
    pub(crate) fn manifest(&self) -> Manifest {
        Manifest {
            version: self.number,
            code_version: process::CODE_VERSION,
            lives: self.lives.clone(),
            epochs: self.epochs.clone(),
            bookmarks: self.bookmarks.clone(),
            ..Manifest::default()
        }
    }

    /// Whether a version of the same life was derived from tables that were behind those of another.
    fn is_behind(&self, other: &Version) -> bool {
        let tables = process::TableState {
            lives: self.lives.clone(),
            epochs: self.epochs.clone(),
            bookmarks: self.bookmarks.clone(),
        };
        process::why_behind(&other.manifest(), &tables).is_some()
    }
}

/// How a chunk gets into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Whole,
    /// The process dies after the first row.
    FirstRow,
    Unacknowledged,
    Late,
    Twice,
}

fn row_of(scenario: &Scenario, claim: &freshet_sinks::ledger::Claim, key: u8, row: i64, point: &ResumePoint) -> Row {
    let object = &claim.object;
    let partitions = claim.numbering.partitions;
    Row {
        object: object.id,
        generation: object.generation,
        row,
        src_ord: object.src_ord,
        seq: point.seqs[usize::from(key) % partitions as usize],
        parser: claim.numbering.parser_version,
        nonce: object.nonce,
        partitions,
        key,
        content: scenario.bytes_of(scenario.content_of(&object.version)),
    }
}
