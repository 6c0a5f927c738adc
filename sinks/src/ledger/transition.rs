//! The events that an object accepts in each state, and their effect. Pure: time and findings are arguments.

use std::time::Duration;

use sqlx::types::Json;
use uuid::Uuid;

use super::claim::Numbering;
use super::lost::Lost;
use super::object::{Content, Object, ResumePoint};
use super::reason::Reason;
use super::state::ObjectState;

/// The reading rules of a version that a program read which did not record them. No rules have this number.
const UNKNOWN_RULES: i64 = 0;

/// Something that happens to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A listener takes it. An expired lease counts as a failed attempt: this object may have killed its listener.
    /// `back_off`: how long after the end of this lease nobody takes it, if it expires too.
    Claim { owner: &'a str, lease: Duration, back_off: Duration, numbering: Numbering },
    /// The listener numbers rows otherwise than is frozen: the next generation begins at row 0.
    OpenGeneration(Numbering),
    /// Everything before this point is acknowledged by the topic.
    Checkpoint { stream: Uuid, point: &'a ResumePoint, content: &'a Content },
    /// All rows are acknowledged by the topic.
    Publish { stream: Uuid, point: &'a ResumePoint, content: &'a Content },
    /// The file is at fault.
    Reject { detail: String },
    /// It has the content of an older version that is published or applied.
    SetAside { original: i64, sha256: Vec<u8> },
    /// S3 no longer has the version.
    Gone { detail: String, lost: Lost },
    /// The listener returns it unchanged: it shuts down, or the domain is paused.
    Release,
    /// The attempt failed; the next one is after `back_off`.
    Fail { detail: String, back_off: Duration },
    /// All of its rows were received.
    Complete,
    /// Some of its rows will not arrive any more.
    Repair { reason: Reason, back_off: Duration },
    /// An operator wants it published again.
    SendAgain,
    /// An operator wants it published again, as the newest of its domain.
    SendAsNew { src_ord: i64 },
    /// The topic was adopted: rows in flight are lost.
    Adopt,
    /// It was given up as gone, but S3 has it.
    Reappear,
    /// The older version that it is a copy of was given up.
    OriginalGone { original: i64 },
    /// It was given up as gone and never read, but rows of it arrived: a failed attempt had sent them.
    RowsArrived { lost: Lost },
}

/// The effect on the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease<'a> {
    /// It stays as it is.
    Keep,
    /// Nobody has it.
    Release,
    /// This listener has it from now on, for this time.
    Grant(&'a str, Duration),
}

/// When the object may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// As before.
    Keep,
    /// Not before this time has passed; zero: immediately.
    Until(Duration),
}

/// The effect of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Change<'a> {
    /// The object after it.
    pub object: Object,
    /// Its lease.
    pub lease: Lease<'a>,
    /// Its waiting time.
    pub wait: Wait,
    /// Whether versions that were set aside as copies of it must now be published themselves. Written in the same
    /// transaction: after a crash in between they would stay set aside for good.
    pub wakes_copies: bool,
}

/// Decides the effect of an event on an object; `None` if the event is not allowed.
///
/// | event | in state | afterwards |
/// |---|---|---|
/// | claim | discovered, publishing (lease run out: attempts + 1) | publishing, leased |
/// | open generation | publishing | publishing, at row 0 of the next generation |
/// | checkpoint | publishing | publishing, attempts 0 |
/// | publish | publishing | published |
/// | reject | publishing | rejected; its copies wake |
/// | set aside | publishing | superseded |
/// | gone, all rows known and received | publishing | applied |
/// | gone, otherwise | publishing | superseded; its copies wake |
/// | release | publishing | discovered |
/// | fail | publishing | discovered, attempts + 1, waiting |
/// | complete | published | applied |
/// | repair | published | discovered at row 0, repairs + 1, waiting |
/// | send again | applied, rejected | discovered at row 0, repairs + 1 |
/// | send as new | applied, rejected, superseded as a copy | discovered at row 0 of the next generation, repairs + 1 |
/// | adopt | discovered, publishing, published | discovered at row 0 |
/// | reappear | superseded as gone | discovered at row 0 |
/// | original gone | superseded as a copy of that one | discovered |
/// | rows arrived | superseded as gone, nothing lost | superseded as gone, with what is lost now |
///
/// Every other pair is refused.
pub fn transition<'a>(object: &Object, event: Event<'a>) -> Option<Change<'a>> {
    use ObjectState::{Applied, Discovered, Published, Publishing, Rejected, Superseded};
    let is_copy = object.reason().and_then(Reason::same_content_as);
    let is_gone = object.reason().is_some_and(Reason::is_gone);
    let change = Change::of(object);
    Some(match (object.state, event) {
        (Discovered | Publishing, Event::Claim { owner, lease, back_off, numbering }) => {
            change.claim(owner, lease, back_off, numbering)
        }
        (Publishing, Event::OpenGeneration(numbering)) => change.open_generation(Some(numbering)),
        (Publishing, Event::Checkpoint { stream, point, content }) => change.checkpoint(stream, point, content),
        (Publishing, Event::Publish { stream, point, content }) => {
            let mut change = change.checkpoint(stream, point, content).end(Published, None);
            (change.object.rows, change.object.partition_rows) = (Some(point.row), Some(point.seqs.clone()));
            change
        }
        (Publishing, Event::Reject { detail }) => {
            Change { wakes_copies: true, ..change.end(Rejected, Some(Reason::Unreadable { detail })) }
        }
        (Publishing, Event::SetAside { original, sha256 }) => {
            let mut change = change.end(Superseded, Some(Reason::SameContent { object: original }));
            change.object.sha256 = Some(sha256);
            change
        }
        (Publishing, Event::Gone { detail, lost: Lost::Nothing }) if object.rows.is_some() => {
            change.end(Applied, Some(Reason::ReceivedBefore { detail }))
        }
        (Publishing, Event::Gone { detail, lost }) => {
            Change { wakes_copies: true, ..change.end(Superseded, Some(Reason::Gone { detail, lost })) }
        }
        (Publishing, Event::Release) => change.end(Discovered, None),
        (Publishing, Event::Fail { detail, back_off }) => {
            let mut change = change.end(Discovered, Some(Reason::Failed { detail }));
            change.object.attempts += 1;
            Change { wait: Wait::Until(back_off), ..change }
        }
        (Published, Event::Complete) => change.end(Applied, None),
        (Published, Event::Repair { reason, back_off }) => {
            Change { wait: Wait::Until(back_off), ..change.restart(Some(reason)).counted() }
        }
        (Applied | Rejected, Event::SendAgain) => change.restart(Some(Reason::SentAgain)).counted(),
        (Applied | Rejected | Superseded, Event::SendAsNew { src_ord })
            if object.state != Superseded || is_copy.is_some() =>
        {
            let mut change = change.open_generation(None).restart(Some(Reason::SentAsNew)).counted();
            change.object.src_ord = src_ord;
            change
        }
        (Discovered | Publishing | Published, Event::Adopt) => change.restart(Some(Reason::Adopted)),
        (Superseded, Event::Reappear) if is_gone => change.restart(Some(Reason::StillThere)),
        (Superseded, Event::OriginalGone { original }) if is_copy == Some(original) => {
            change.restart(Some(Reason::OriginalGone { object: original }))
        }
        (Superseded, Event::RowsArrived { lost }) => match object.reason() {
            Some(Reason::Gone { detail, lost: Lost::Nothing }) => {
                let mut change = change.end(Superseded, Some(Reason::Gone { detail: detail.clone(), lost }));
                // Only one of two concurrent sweeps writes.
                change.object.lease_epoch += 1;
                change
            }
            _ => return None,
        },
        _ => return None,
    })
}

impl<'a> Change<'a> {
    fn of(object: &Object) -> Self {
        Change { object: object.clone(), lease: Lease::Keep, wait: Wait::Keep, wakes_copies: false }
    }

    fn claim(mut self, owner: &'a str, lease: Duration, back_off: Duration, numbering: Numbering) -> Self {
        let object = &mut self.object;
        object.attempts += i32::from(object.state == ObjectState::Publishing);
        object.state = ObjectState::Publishing;
        object.lease_epoch += 1;
        // What a program that did not know of them has read to its end, nobody can say by which rules.
        let was_read = object.parser_version.is_some() && object.rows.is_some();
        object.reading_rules.get_or_insert(if was_read { UNKNOWN_RULES } else { numbering.reading_rules });
        object.parser_version.get_or_insert(numbering.parser_version);
        object.partition_count.get_or_insert(numbering.partitions);
        self.lease = Lease::Grant(owner, lease);
        self.wait = Wait::Until(lease + back_off);
        self
    }

    /// `None`: the next claim decides how its rows are numbered.
    fn open_generation(mut self, numbering: Option<Numbering>) -> Self {
        let object = &mut self.object;
        object.generation += 1;
        object.parser_version = numbering.map(|it| it.parser_version);
        object.partition_count = numbering.map(|it| it.partitions);
        object.reading_rules = numbering.map(|it| it.reading_rules);
        (object.rows, object.partition_rows) = (None, None);
        self.rewind();
        self
    }

    fn checkpoint(mut self, stream: Uuid, point: &ResumePoint, content: &Content) -> Self {
        let object = &mut self.object;
        (object.resume_byte, object.resume_line, object.resume_row) = (point.byte, point.line, point.row);
        object.resume_seqs = Some(point.seqs.clone());
        object.end_offsets = Some(point.ends.clone());
        object.stream_id = Some(stream);
        object.sha256 = Some(content.sha256.clone());
        object.ignored_columns.clone_from(&content.ignored_columns);
        object.absent_defaults.clone_from(&content.absent_defaults);
        object.overtaken = content.overtaken;
        object.attempts = 0;
        self
    }

    /// Ends the object's work in a state, without a lease.
    fn end(mut self, state: ObjectState, reason: Option<Reason>) -> Self {
        self.object.state = state;
        self.object.cause = reason.map(Json);
        (self.lease, self.wait) = (Lease::Release, Wait::Until(Duration::ZERO));
        self
    }

    /// Goes back to the first row of the generation and ends the lease. The counts of the first publishing (rows, rows
    /// by partition) stay: they name the missing rows if S3 no longer has the version.
    fn restart(self, reason: Option<Reason>) -> Self {
        let mut change = self.end(ObjectState::Discovered, reason);
        change.object.attempts = 0;
        change.object.lease_epoch += 1;
        change.rewind();
        change
    }

    fn rewind(&mut self) {
        let object = &mut self.object;
        (object.resume_byte, object.resume_line, object.resume_row) = (0, 0, 0);
        (object.resume_seqs, object.end_offsets, object.stream_id) = (None, None, None);
    }

    fn counted(mut self) -> Self {
        self.object.repairs += 1;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Object {
        Object {
            state: ObjectState::Published,
            rows: Some(7),
            partition_rows: Some(vec![3, 0, 4]),
            resume_row: 7,
            resume_seqs: Some(vec![3, 0, 4]),
            end_offsets: Some(vec![10, 0, 20]),
            stream_id: Some(Uuid::from_u128(1)),
            parser_version: Some(1),
            partition_count: Some(3),
            attempts: 2,
            ..Object::example()
        }
    }

    const NUMBERING: Numbering = Numbering { parser_version: 2, partitions: 4, reading_rules: 8 };

    fn claim_of(lease: Duration, back_off: Duration) -> Event<'static> {
        Event::Claim { owner: "me", lease, back_off, numbering: NUMBERING }
    }

    fn events(point: &ResumePoint, content: &Content) -> Vec<(&'static str, Event<'static>)> {
        // Leaked: a test's few bytes, so that the events outlive this function.
        let (point, content) = (Box::leak(Box::new(point.clone())), Box::leak(Box::new(content.clone())));
        let stream = Uuid::from_u128(2);
        let (lease, back_off) = (Duration::from_secs(10), Duration::from_secs(1));
        let detail = || "why".to_owned();
        vec![
            ("claim", claim_of(lease, back_off)),
            ("open generation", Event::OpenGeneration(NUMBERING)),
            ("checkpoint", Event::Checkpoint { stream, point, content }),
            ("publish", Event::Publish { stream, point, content }),
            ("reject", Event::Reject { detail: detail() }),
            ("set aside", Event::SetAside { original: 5, sha256: vec![7] }),
            ("gone", Event::Gone { detail: detail(), lost: Lost::From { row: 3, received: 3 } }),
            ("release", Event::Release),
            ("fail", Event::Fail { detail: detail(), back_off }),
            ("complete", Event::Complete),
            ("repair", Event::Repair { reason: Reason::LogTruncated, back_off }),
            ("send again", Event::SendAgain),
            ("send as new", Event::SendAsNew { src_ord: 99 }),
            ("adopt", Event::Adopt),
            ("reappear", Event::Reappear),
            ("original gone", Event::OriginalGone { original: 5 }),
            ("rows arrived", Event::RowsArrived { lost: Lost::Unknown { received: 2 } }),
        ]
    }

    #[test]
    fn an_event_happens_only_in_the_states_of_the_table() {
        let point = ResumePoint { byte: 100, line: 12, row: 9, seqs: vec![5, 4], ends: vec![8, 9] };
        let allowed: [(&str, &[&str]); 8] = [
            ("discovered", &["claim", "adopt"]),
            (
                "publishing",
                &[
                    "claim",
                    "open generation",
                    "checkpoint",
                    "publish",
                    "reject",
                    "set aside",
                    "gone",
                    "release",
                    "fail",
                    "adopt",
                ],
            ),
            ("published", &["complete", "repair", "adopt"]),
            ("applied", &["send again", "send as new"]),
            ("rejected", &["send again", "send as new"]),
            ("superseded", &[]),
            ("superseded as gone", &["reappear", "rows arrived"]),
            ("superseded as a copy", &["send as new", "original gone"]),
        ];
        for (state, allowed) in allowed {
            let cause = match state.split_once(" as ") {
                Some((_, "gone")) => Some(Json(Reason::Gone { detail: "why".into(), lost: Lost::Nothing })),
                Some(_) => Some(Json(Reason::SameContent { object: 5 })),
                None => None,
            };
            let name = state.split(' ').next().expect("a word");
            let object = Object { state: ObjectState::from_name(name).expect(name), cause, ..published() };
            for (event, given) in events(&point, &Content::default()) {
                assert_eq!(transition(&object, given).is_some(), allowed.contains(&event), "{event} in {state}");
            }
        }
    }

    #[test]
    fn a_restart_forgets_how_far_it_was_and_keeps_what_was_counted() {
        let restarts = [
            (published(), Event::Repair { reason: Reason::LogTruncated, back_off: Duration::from_secs(4) }, 1),
            (published(), Event::Adopt, 0),
            (Object { state: ObjectState::Applied, ..published() }, Event::SendAgain, 1),
        ];
        for (object, event, repairs) in restarts {
            let change = transition(&object, event).expect("it may happen");
            let after = &change.object;
            assert_eq!((after.state, after.resume_row, after.attempts), (ObjectState::Discovered, 0, 0));
            assert_eq!((&after.resume_seqs, &after.end_offsets, after.stream_id), (&None, &None, None));
            assert_eq!((after.rows, &after.partition_rows), (object.rows, &object.partition_rows));
            assert_eq!((after.repairs, after.lease_epoch, after.generation), (repairs, object.lease_epoch + 1, 1));
            assert_eq!(change.lease, Lease::Release);
        }
        let applied = Object { state: ObjectState::Applied, ..published() };
        let anew = transition(&applied, Event::SendAsNew { src_ord: 99 }).expect("it may happen").object;
        assert_eq!((anew.generation, anew.rows, anew.partition_count, anew.src_ord), (2, None, None, 99));
    }

    #[test]
    fn a_version_that_is_gone_is_applied_if_all_of_it_arrived_and_wakes_its_copies_if_not() {
        let publishing = Object { state: ObjectState::Publishing, ..published() };
        let gone = |object: &Object, lost| {
            let change = transition(object, Event::Gone { detail: "gone".into(), lost }).expect("it may happen");
            (change.object.state, change.wakes_copies)
        };
        assert_eq!(gone(&publishing, Lost::Nothing), (ObjectState::Applied, false));
        assert_eq!(gone(&publishing, Lost::From { row: 3, received: 3 }), (ObjectState::Superseded, true));
        let unread = Object { rows: None, partition_rows: None, ..publishing };
        assert_eq!(gone(&unread, Lost::Nothing), (ObjectState::Superseded, true));
    }

    #[test]
    fn a_lease_that_ran_out_is_a_failure_and_the_next_one_waits_longer_after_it() {
        let claim = |object: &Object| {
            let (lease, back_off) = (Duration::from_secs(10), Duration::from_secs(2));
            transition(object, claim_of(lease, back_off))
        };
        let fresh = claim(&Object::example()).expect("it may happen");
        assert_eq!((fresh.object.attempts, fresh.object.lease_epoch), (0, 2));
        assert_eq!((fresh.object.parser_version, fresh.object.partition_count), (Some(2), Some(4)));
        assert_eq!(fresh.object.reading_rules, Some(8));
        assert_eq!(fresh.wait, Wait::Until(Duration::from_secs(12)));
        let again = claim(&fresh.object).expect("it may happen");
        assert_eq!((again.object.attempts, again.object.lease_epoch), (1, 3));
        let (parser_version, partition_count, reading_rules) = (Some(1), Some(3), Some(5));
        let frozen = Object { parser_version, partition_count, reading_rules, ..Object::example() };
        let claimed = claim(&frozen).expect("it may happen").object;
        let kept = (claimed.parser_version, claimed.partition_count, claimed.reading_rules);
        assert_eq!(kept, (parser_version, partition_count, reading_rules));
        let older = Object { reading_rules: None, rows: None, ..frozen.clone() };
        assert_eq!(
            claim(&older).expect("it may happen").object.reading_rules,
            Some(8),
            "what is in progress is taken over"
        );
        let read = Object { rows: Some(3), ..older };
        assert_eq!(claim(&read).expect("it may happen").object.reading_rules, Some(UNKNOWN_RULES), "by whatever rules");
    }
}
