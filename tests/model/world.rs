//! Everything that there is at one moment, and what a history begins with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use freshet_sinks::ledger::{Claim, Content, Event, ObjectVersion, ResumePoint};
use uuid::Uuid;

use crate::database::{Batch, Database, numbering};
use crate::faults::{Budget, Mutation};
use crate::kafka::{Record, Topic};

/// A world to search: what is dropped, who works, and what may go wrong.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What is dropped, in this order: S3 key, content, and the second of S3's clock.
    pub(crate) puts: Vec<(&'static str, usize, i64)>,
    /// The contents by number: the table keys of their rows.
    pub(crate) contents: Vec<Vec<u8>>,
    /// Contents with the bytes of an earlier one: what another client uploads may have another ETag.
    pub(crate) copies: Vec<(usize, usize)>,
    pub(crate) partitions: usize,
    /// Rows in a chunk.
    pub(crate) chunk_rows: usize,
    pub(crate) listeners: usize,
    pub(crate) processors: usize,
    pub(crate) publishers: usize,
    pub(crate) budget: Budget,
    /// Whether the topic has its stream records when the history begins.
    pub(crate) is_created: bool,
    /// Whether a processor may read a part of what is there.
    pub(crate) reads_in_parts: bool,
    pub(crate) mutation: Option<Mutation>,
}

impl Scenario {
    /// The version that a put makes.
    pub(crate) fn version(&self, put: usize) -> ObjectVersion {
        let (key, content, second) = self.puts[put];
        ObjectVersion {
            bucket: "raw".into(),
            key: key.into(),
            version_id: None,
            etag: format!("content-{content}"),
            size_bytes: self.contents[content].len() as i64,
            last_modified: DateTime::from_timestamp(second, 0).expect("a time"),
        }
    }

    /// The content that a version has, by its ETag.
    pub(crate) fn content_of(&self, version: &ObjectVersion) -> usize {
        version.etag.trim_start_matches("content-").parse().expect("a content")
    }

    /// The first content that has the same bytes.
    pub(crate) fn bytes_of(&self, content: usize) -> usize {
        self.copies.iter().find(|(_, copy)| *copy == content).map_or(content, |(original, _)| *original)
    }

    /// The hash of a content.
    pub(crate) fn described(&self, content: usize) -> Content {
        Content {
            sha256: vec![self.bytes_of(content) as u8],
            ignored_columns: Vec::new(),
            absent_defaults: Vec::new(),
            overtaken: 0,
        }
    }
}

/// A topic as a listener found it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Open {
    pub(crate) partitions: i32,
    pub(crate) stream: Uuid,
}

/// What a listener is about to record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    Publish(ResumePoint),
    Checkpoint(ResumePoint),
    OpenGeneration,
    SetAside(i64),
    Gone,
    Fail,
    Release,
    /// With [`Mutation::WakeApart`] alone: the copies of this object are still to be woken.
    Wake(i64),
}

impl Verdict {
    /// As the ledger hears of it. `None`: what is lost is looked up first, or copies are woken apart.
    pub(crate) fn event<'a>(&'a self, open: Open, content: &'a Content) -> Option<Event<'a>> {
        let stream = open.stream;
        Some(match self {
            Verdict::Publish(point) => Event::Publish { stream, point, content },
            Verdict::Checkpoint(point) => Event::Checkpoint { stream, point, content },
            Verdict::OpenGeneration => Event::OpenGeneration(numbering(open.partitions)),
            Verdict::SetAside(original) => Event::SetAside { original: *original, sha256: content.sha256.clone() },
            Verdict::Fail => Event::Fail { detail: "failed".into(), back_off: Duration::ZERO },
            Verdict::Release => Event::Release,
            Verdict::Gone | Verdict::Wake(_) => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// To ask S3 for the version.
    Claimed,
    /// The content is at hand, published up to here.
    Opened(ResumePoint),
    /// To write this to the ledger.
    Recording(Verdict),
}

/// A listener at work. One that is idle has nothing in mind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Work {
    pub(crate) claim: Claim,
    /// The topic as it was when the object was claimed.
    pub(crate) open: Open,
    pub(crate) stage: Stage,
}

/// What a processor knows of a partition that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owned {
    /// The next record to read.
    pub(crate) position: i64,
    /// What is handed over next moves the bookmark from here.
    pub(crate) expected: i64,
    pub(crate) epoch: i64,
    pub(crate) is_halted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Processor {
    pub(crate) owned: BTreeMap<i32, Owned>,
    /// Read, and to be applied.
    pub(crate) batch: Option<Batch>,
    /// With [`Mutation::BookmarkApart`] alone: the bookmark is moved, the rows are not written.
    pub(crate) is_moved: bool,
}

/// A published version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) lives: Vec<String>,
    pub(crate) epochs: BTreeMap<String, i64>,
    pub(crate) bookmarks: BTreeMap<String, BTreeMap<i32, i64>>,
    /// What the table said, by key.
    pub(crate) content: BTreeMap<u8, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Publisher {
    Idle,
    /// It has read the pointer.
    Looked(Option<Arc<Version>>),
    /// It has taken a snapshot and derived from it: to swap the pointer, if it still is what was seen.
    Derived {
        seen: Option<Arc<Version>>,
        next: Arc<Version>,
        marks: Vec<u16>,
    },
    /// The answer to the swap was lost: to read the pointer.
    Unsure {
        next: Arc<Version>,
        marks: Vec<u16>,
    },
    /// To delete these marks.
    Swapped(Vec<u16>),
}

/// Something that must never happen, seen by the step that did it.
pub(crate) type Wrong = &'static str;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) budget: Budget,
    /// How many of the puts have happened.
    pub(crate) dropped: usize,
    /// S3 key → the put that it holds.
    pub(crate) bucket: BTreeMap<&'static str, usize>,
    pub(crate) topic: Topic,
    pub(crate) database: Database,
    pub(crate) backup: Option<Box<Database>>,
    pub(crate) listeners: Vec<Option<Work>>,
    /// Partition → the processor that the group gave it to.
    pub(crate) group: BTreeMap<i32, usize>,
    pub(crate) processors: Vec<Processor>,
    pub(crate) outputs: Option<Arc<Version>>,
    pub(crate) publishers: Vec<Publisher>,
    /// Random numbers are these, one after the other.
    pub(crate) drawn: u64,
    /// How often a person adopted the topic or set a bookmark.
    pub(crate) mended: u8,
    /// Postgres was restored, and nobody has said so yet.
    pub(crate) is_restore_unsaid: bool,
    pub(crate) wrong: Option<Wrong>,
}

impl World {
    pub(crate) fn of(scenario: &Scenario) -> World {
        let mut topic = Topic::default();
        topic.make(scenario.partitions);
        let mut world = World {
            budget: scenario.budget.clone(),
            dropped: 0,
            bucket: BTreeMap::new(),
            topic,
            database: Database::new(1 << 32),
            backup: None,
            listeners: vec![None; scenario.listeners],
            group: BTreeMap::new(),
            processors: vec![Processor::default(); scenario.processors],
            outputs: None,
            publishers: vec![Publisher::Idle; scenario.publishers],
            drawn: 1,
            mended: 0,
            is_restore_unsaid: false,
            wrong: None,
        };
        if scenario.is_created {
            for partition in 0..scenario.partitions {
                world.write_stream_record(partition);
            }
        }
        world
    }

    /// A number that nobody else has.
    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    /// The id that the topic's stream records carry.
    pub(crate) fn stream_of_topic(&self) -> Uuid {
        Uuid::from_u64_pair(7, u64::from(self.topic.made))
    }

    pub(crate) fn write_stream_record(&mut self, partition: usize) {
        let stream = self.stream_of_topic();
        self.topic.append(partition, Record::Stream(stream));
    }
}
