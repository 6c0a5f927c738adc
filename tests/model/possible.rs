//! The steps that are possible at a moment, of processes, of people and of faults.

use std::sync::Arc;

use freshet_ingest::decisions::{self as ingest, Step};
use freshet_processors::decisions as process;
use freshet_sinks::bookmarks::is_as_left;
use freshet_sinks::bookmarks::streams::Binding;
use freshet_sinks::ledger::{ObjectState, is_sendable};
use freshet_topics::stream::Beginning;

use crate::database::{DOMAIN, WayOut};
use crate::faults::{Fault, Mutation};
use crate::world::{Open, Processor, Publisher, Scenario, Stage, Version, World};

/// A person does not mend for ever: more than this is a mending that does not help.
const MENDED_MAX: u8 = 12;

/// A step of somebody, or a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Somebody drops the next file.
    Put,
    /// A listing shows this key, and it is registered.
    Register(&'static str),
    /// A listener takes the next object.
    Claim(usize),
    /// It asks S3 for the version.
    Ask(usize),
    /// It sends the next chunk, and all is acknowledged.
    Send(usize),
    /// It writes to the ledger what came of it.
    Record(usize),
    /// The lease of an object ends whose listener is gone.
    LeaseEnds(i64),
    /// Somebody judges the published objects.
    Sweep,
    /// A partition without an owner is given to a processor, which takes its bookmark.
    Take(usize, i32),
    /// A processor finds that a partition is another's by now, or may be read again, and joins the group anew.
    Rejoin(usize, i32),
    /// It reads up to so many records.
    Read(usize, i32, usize),
    /// It applies what it has read.
    Apply(usize),
    /// A publisher reads the pointer.
    ReadPointer(usize),
    /// It takes a snapshot, and derives.
    Derive(usize),
    /// It swaps the pointer.
    Swap(usize),
    /// It finds out whether its swap had happened.
    Resolve(usize),
    /// It deletes the marks that are published.
    DeleteMarks(usize),
    /// `topics create`, or the listener's gate: a stream record that is missing is written.
    WriteStreamRecord(usize),
    /// Records that were on their way arrive.
    Deliver(usize),
    /// A person adopts the topic, as a halt or a closed gate says.
    Adopt,
    /// A person sets a bookmark to the log's end, as a halt says.
    SetToEnd(i32),
    /// A person says that the database was restored, as the outputs say.
    Restored,
    /// A backup is made.
    Backup,
    /// A listener dies.
    CrashListener(usize),
    /// A listener dies when the first row of a chunk is in the log.
    CrashMidChunk(usize),
    /// A processor dies.
    CrashProcessor(usize),
    /// A publisher dies.
    CrashPublisher(usize),
    /// A lease ends whose listener lives.
    LeaseRunsOut(i64),
    /// The chunk is in the log, and the producer hears that it is not.
    AckLost(usize),
    /// The chunk comes into the log later.
    Delay(usize),
    /// The chunk comes into the log twice.
    Duplicate(usize),
    /// A partition is given to another processor.
    Rebalance(usize, i32),
    /// A batch is applied, and the processor hears nothing.
    CommitLost(usize),
    /// The pointer is swapped, and the publisher hears nothing.
    PutLost(usize),
    /// S3's answer is 404, and not S3's.
    ForeignAnswer(usize),
    /// The oldest record of a partition goes.
    Retention(usize),
    /// The newest record of a partition is lost.
    LogCut(usize),
    /// The topic is deleted and recreated.
    MakeTopicAgain,
    /// Postgres goes back to the backup.
    Restore,
    /// `republish`.
    SendAgain(i64),
    /// `republish --as-new`.
    SendAsNew(i64),
    /// A file is deleted.
    Delete(&'static str),
    /// `replay`, in place, up to the bookmarks.
    Replay,
    /// `replay --shadow`: rows are read into the shadow.
    FillShadow,
    /// The shadow takes the table's place.
    SwapShadow,
}

impl World {
    /// The topic, if it may be published to.
    pub(crate) fn gate(&self, scenario: &Scenario) -> Option<Open> {
        let Binding::Same(stream) = self.database.binding(&self.topic) else { return None };
        let beginnings = self.database.beginnings(&self.topic, stream);
        let step = ingest::decide_opening(DOMAIN, "topic", &beginnings);
        let is_first_fit = beginnings.get(&0).is_some_and(|(beginning, _)| *beginning == Beginning::Fits);
        match step {
            Step::Open(partitions) => Some(Open { partitions, stream }),
            _ if scenario.mutation == Some(Mutation::OpenByFirstPartition) && is_first_fit => {
                Some(Open { partitions: beginnings.len() as i32, stream })
            }
            _ => None,
        }
    }

    /// Whether the gate, or a halt, asks a person to adopt the topic.
    fn asks_to_adopt(&self) -> bool {
        if self.topic.firsts().contains(&freshet_topics::stream::FirstRecord::Empty) {
            // `topics create` comes first.
            return false;
        }
        let is_refused = match self.database.binding(&self.topic) {
            Binding::Other { .. } | Binding::Unknown => true,
            Binding::Same(stream) => {
                let beginnings = self.database.beginnings(&self.topic, stream);
                matches!(ingest::decide_opening(DOMAIN, "topic", &beginnings), Step::Refuse(_))
            }
        };
        let is_behind = |bookmark: &crate::database::Bookmark| bookmark.halted == Some(WayOut::Adopt);
        (is_refused || self.database.bookmarks.values().any(is_behind)) && self.mended < MENDED_MAX
    }

    fn is_worked_on(&self, id: i64) -> bool {
        let object = self.database.object(id);
        self.listeners.iter().flatten().any(|work| work.claim.object.guard() == object.guard())
    }

    fn needs_publishing(&self) -> bool {
        let tables = self.database.table_state();
        match &self.outputs {
            None => !self.database.marks.is_empty(),
            Some(version) => {
                let manifest = version.manifest();
                let is_dirty = !self.database.marks.is_empty() || !process::goes_on(&manifest, &tables);
                is_dirty && process::why_behind(&manifest, &tables).is_none()
            }
        }
    }

    /// The steps that somebody takes sooner or later, without any fault.
    pub(crate) fn steps(&self, scenario: &Scenario) -> Vec<Action> {
        let mut steps = Vec::new();
        if self.dropped < scenario.puts.len() {
            steps.push(Action::Put);
        }
        for (key, put) in &self.bucket {
            if self.database.is_unknown(&scenario.version(*put), scenario.mutation) {
                steps.push(Action::Register(key));
            }
        }
        self.listeners_steps(scenario, &mut steps);
        for one in &self.database.objects {
            let object = &one.object;
            if one.is_leased && object.state == ObjectState::Publishing && !self.is_worked_on(object.id) {
                steps.push(Action::LeaseEnds(object.id));
            }
        }
        if self.database.may_sweep(&self.topic, scenario.mutation) {
            steps.push(Action::Sweep);
        }
        self.processors_steps(scenario, &mut steps);
        let idle = self.publishers.iter().position(|publisher| *publisher == Publisher::Idle);
        steps.extend(idle.filter(|_| self.needs_publishing()).map(Action::ReadPointer));
        for (publisher, stage) in self.publishers.iter().enumerate() {
            match stage {
                Publisher::Idle => {}
                Publisher::Looked(_) => steps.push(Action::Derive(publisher)),
                Publisher::Derived { .. } => steps.push(Action::Swap(publisher)),
                Publisher::Unsure { .. } => steps.push(Action::Resolve(publisher)),
                Publisher::Swapped(_) => steps.push(Action::DeleteMarks(publisher)),
            }
        }
        for (partition, log) in self.topic.partitions.iter().enumerate() {
            if log.records.is_empty() {
                steps.push(Action::WriteStreamRecord(partition));
            }
        }
        steps.extend((0..self.topic.delayed.len()).map(Action::Deliver));
        if self.asks_to_adopt() {
            steps.push(Action::Adopt);
        }
        for (partition, bookmark) in &self.database.bookmarks {
            if bookmark.halted == Some(WayOut::SetToEnd) && self.mended < MENDED_MAX {
                steps.push(Action::SetToEnd(*partition));
            }
        }
        let tables = self.database.table_state();
        let is_refused = |version: &Arc<Version>| process::why_behind(&version.manifest(), &tables).is_some();
        // A person comes when it does not get better by itself, and says so of every restore in the end.
        if steps.is_empty() && (self.is_restore_unsaid || self.outputs.as_ref().is_some_and(is_refused)) {
            steps.push(Action::Restored);
        }
        steps
    }

    fn listeners_steps(&self, scenario: &Scenario, steps: &mut Vec<Action>) {
        // Listeners that are idle are all alike: one of them is enough.
        let idle = self.listeners.iter().position(Option::is_none);
        if let Some(listener) = idle.filter(|_| self.database.may_claim() && self.gate(scenario).is_some()) {
            steps.push(Action::Claim(listener));
        }
        for (listener, work) in self.listeners.iter().enumerate() {
            let Some(work) = work else { continue };
            steps.push(match work.stage {
                Stage::Claimed => Action::Ask(listener),
                Stage::Opened(_) => Action::Send(listener),
                Stage::Recording(_) => Action::Record(listener),
            });
        }
    }

    fn processors_steps(&self, scenario: &Scenario, steps: &mut Vec<Action>) {
        for partition in 0..self.topic.partitions.len() as i32 {
            let is_known = !matches!(self.database.binding(&self.topic), Binding::Unknown);
            if !self.group.contains_key(&partition) && is_known {
                // Processors that know nothing are all alike: one of them is enough.
                let idle = self.processors.iter().position(|processor| *processor == Processor::default());
                let others = (0..self.processors.len()).filter(|at| self.processors[*at] != Processor::default());
                steps.extend(idle.into_iter().chain(others).map(|processor| Action::Take(processor, partition)));
            }
        }
        for (index, processor) in self.processors.iter().enumerate() {
            for (partition, owned) in &processor.owned {
                let bookmark = self.database.bookmarks.get(partition);
                let applied = (!owned.is_halted).then_some(owned.expected);
                let found = bookmark.map(|bookmark| (bookmark.next, bookmark.epoch, bookmark.halted.is_some()));
                let is_mine = match scenario.mutation {
                    Some(Mutation::IdleOwnerLooksAtEpochsOnly) => {
                        found.is_some_and(|(_, epoch, _)| epoch == owned.epoch)
                    }
                    _ => is_as_left(found, owned.epoch, applied),
                };
                let is_given = self.group.get(partition) == Some(&index);
                if processor.batch.is_none() && (!is_mine || !is_given) {
                    steps.push(Action::Rejoin(index, *partition));
                    continue;
                }
                let log = &self.topic.partitions[*partition as usize];
                if processor.batch.is_some() || owned.is_halted {
                    continue;
                }
                let is_outside = owned.position < log.low || owned.position > log.high();
                let there = (log.high() - owned.position).max(0) as usize;
                if is_outside {
                    steps.push(Action::Rejoin(index, *partition));
                } else if there > 0 {
                    steps.push(Action::Read(index, *partition, there));
                    if scenario.reads_in_parts && there > 1 {
                        steps.push(Action::Read(index, *partition, 1));
                    }
                }
            }
            if processor.batch.is_some() {
                steps.push(Action::Apply(index));
            }
        }
    }

    /// The faults that may happen now.
    pub(crate) fn faults(&self, scenario: &Scenario) -> Vec<Action> {
        let mut faults = Vec::new();
        let may = |fault| self.budget.left(fault) > 0;
        for (listener, work) in self.listeners.iter().enumerate() {
            let Some(work) = work else { continue };
            let is_sending = matches!(work.stage, Stage::Opened(_));
            let sending = [
                (Fault::Crash, Action::CrashMidChunk(listener)),
                (Fault::AckLost, Action::AckLost(listener)),
                (Fault::Delay, Action::Delay(listener)),
                (Fault::Duplicate, Action::Duplicate(listener)),
            ];
            faults.extend(sending.into_iter().filter(|(fault, _)| is_sending && may(*fault)).map(|(_, action)| action));
            if may(Fault::Crash) {
                faults.push(Action::CrashListener(listener));
            }
            if may(Fault::ForeignAnswer) && work.stage == Stage::Claimed {
                faults.push(Action::ForeignAnswer(listener));
            }
        }
        self.faults_of_objects(&mut faults);
        for (processor, has) in self.processors.iter().enumerate() {
            if may(Fault::Crash) && !has.owned.is_empty() {
                faults.push(Action::CrashProcessor(processor));
            }
            if may(Fault::CommitLost) && has.batch.is_some() {
                faults.push(Action::CommitLost(processor));
            }
            let others = self.group.iter().filter(|(_, owner)| may(Fault::Rebalance) && **owner != processor);
            faults.extend(others.map(|(partition, _)| Action::Rebalance(processor, *partition)));
        }
        for (publisher, stage) in self.publishers.iter().enumerate() {
            if may(Fault::Crash) && *stage != Publisher::Idle {
                faults.push(Action::CrashPublisher(publisher));
            }
            if may(Fault::PutLost) && matches!(stage, Publisher::Derived { .. }) {
                faults.push(Action::PutLost(publisher));
            }
        }
        for (partition, log) in self.topic.partitions.iter().enumerate() {
            if may(Fault::Retention) && log.low < log.high() {
                faults.push(Action::Retention(partition));
            }
            if may(Fault::LogCut) && log.low < log.high() && log.high() > 1 {
                faults.push(Action::LogCut(partition));
            }
        }
        if may(Fault::TopicMadeAgain) && self.topic.partitions.iter().any(|log| !log.records.is_empty()) {
            faults.push(Action::MakeTopicAgain);
        }
        if may(Fault::Restore) {
            faults.push(if self.backup.is_some() { Action::Restore } else { Action::Backup });
        }
        if may(Fault::Replay) {
            faults.push(Action::Replay);
        }
        if may(Fault::Shadow) {
            faults.push(Action::FillShadow);
            if self.database.may_swap(scenario.mutation) {
                faults.push(Action::SwapShadow);
            }
        }
        faults
    }

    fn faults_of_objects(&self, faults: &mut Vec<Action>) {
        let may = |fault| self.budget.left(fault) > 0;
        for one in &self.database.objects {
            let object = &one.object;
            let is_held = one.is_leased && object.state == ObjectState::Publishing;
            if may(Fault::LeaseRunsOut) && is_held && self.is_worked_on(object.id) {
                faults.push(Action::LeaseRunsOut(object.id));
            }
            if may(Fault::SendAgain) && is_sendable(object, false) {
                faults.push(Action::SendAgain(object.id));
            }
            let is_newest = self.database.of_key(&object.version.key).last().is_some_and(|it| it.id == object.id);
            if may(Fault::SendAsNew) && is_newest && is_sendable(object, true) {
                faults.push(Action::SendAsNew(object.id));
            }
        }
        if may(Fault::Delete) {
            faults.extend(self.bucket.keys().map(|key| Action::Delete(key)));
        }
    }
}
