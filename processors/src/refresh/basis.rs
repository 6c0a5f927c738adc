//! The basis of the next version: the published version, or, if that was deleted or put back by hand, only lower bounds
//! that it must not fall below.

use std::time::{Duration, Instant, SystemTime};

use freshet_sinks::outputs::{Condition, Current, Damage, Manifest, Published, publication_max};

/// A publication may take at least this long, however short outputs are kept.
const PUBLICATION_MIN: Duration = Duration::from_secs(3_600);

/// What the next version is based on.
pub(super) struct Basis {
    /// The version that readers may have seen: the outputs must not go back behind its code version or its bookmarks.
    pub(super) seen: Option<Manifest>,
    /// Whether its files are kept; else everything is derived again.
    keeps: bool,
    /// The condition for the pointer's swap.
    pub(super) swap: Condition,
    /// The next version is above this one.
    highest: u64,
    /// What was deleted or put back, for people.
    pub(super) lost: Option<String>,
}

impl Basis {
    /// | published | copies | files kept | next version above |
    /// |---|---|---|---|
    /// | nothing | | none | what a first publication left that did not get to its end |
    /// | lost | | none | every version that left a trace |
    /// | a version | up to it | its own | it |
    /// | a version | above it: the pointer was put back | none | the copies' |
    pub(super) fn of(published: Published, damage: &Damage) -> Basis {
        match published {
            Published::Nothing(highest) => {
                Basis { seen: None, keeps: false, swap: Condition::Absent, highest, lost: None }
            }
            Published::Lost(lost) => {
                Basis { seen: lost.newest, keeps: false, swap: lost.swap, highest: lost.highest, lost: Some(lost.what) }
            }
            Published::Current(current) => {
                let Current { etag, manifest, .. } = *current;
                let version = manifest.version;
                let ahead = damage.ahead.as_ref().filter(|(_, ahead)| *ahead > version);
                let lost = ahead.map(|(key, ahead)| {
                    format!("the pointer was set back to version {version}: {key} is a copy of version {ahead}")
                });
                Basis {
                    keeps: ahead.is_none(),
                    swap: Condition::Unchanged(etag),
                    highest: ahead.map_or(version, |(_, ahead)| *ahead),
                    seen: Some(manifest),
                    lost,
                }
            }
        }
    }

    /// The version whose files are kept, if any are.
    pub(super) fn kept(&self) -> Option<&Manifest> {
        self.seen.as_ref().filter(|_| self.keeps)
    }

    /// The version that is current; 0 if there is none.
    pub(super) fn version(&self) -> u64 {
        self.kept().map_or(0, |manifest| manifest.version)
    }

    /// The next version.
    pub(super) fn next_version(&self) -> u64 {
        self.highest + 1
    }
}

/// When a publication began, by two clocks: only the second one counts the time in which a machine was suspended.
#[derive(Clone, Copy)]
pub(super) struct Began {
    pub(super) at: Instant,
    wall: SystemTime,
}

impl Began {
    pub(super) fn now() -> Began {
        Began { at: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago, by the clock that shows more. A wall clock that jumps forward ends a publication, which is then
    /// started again.
    pub(super) fn elapsed(self) -> Duration {
        self.at.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }

    /// How long it took and how long it may take, if it took longer, as in a process that was frozen. Readers rely on
    /// the time for which the files of the version before are kept, so it has to be started again.
    ///
    /// | outputs are kept | a publication may take |
    /// |---|---|
    /// | 7 days | a day |
    /// | 0 days | an hour |
    pub(super) fn overlong(self, keep: Duration) -> Option<(Duration, Duration)> {
        let (took, limit) = (self.elapsed(), publication_max(keep).max(PUBLICATION_MIN));
        (took > limit).then_some((took, limit))
    }
}

#[cfg(test)]
mod tests {
    use freshet_sinks::outputs::{Lost, Pointer};

    use super::*;

    fn current(version: u64) -> Published {
        let pointer = Pointer { version, manifest: String::new(), sha256: String::new() };
        let manifest = Manifest { version, ..Manifest::default() };
        Published::Current(Box::new(Current { etag: "e".into(), modified: 0, pointer, manifest }))
    }

    #[test]
    fn a_publication_that_was_frozen_is_begun_again() {
        let day = Duration::from_secs(24 * 3_600);
        let cases = [(7, 23, false), (7, 25, true), (0, 0, false), (0, 2, true)];
        for (keep_days, hours, overlong) in cases {
            // As on a machine that was suspended: only the wall clock has advanced.
            let wall = SystemTime::now() - Duration::from_secs(hours * 3_600);
            let began = Began { at: Instant::now(), wall };
            assert_eq!(began.overlong(day * keep_days).is_some(), overlong, "{keep_days} days, {hours} hours");
        }
        let ahead = Began { at: Instant::now(), wall: SystemTime::now() + day };
        assert_eq!(ahead.overlong(day), None, "the wall clock was set back");
    }

    #[test]
    fn the_next_version_is_above_every_version_that_left_a_trace() {
        let newest = Some(Manifest { version: 6, ..Manifest::default() });
        let lost = Lost { what: "gone".into(), swap: Condition::Absent, highest: 7, newest };
        let lost = Published::Lost(Box::new(lost));
        let ahead = |version| Damage { ahead: Some(("copy".into(), version)), ..Damage::default() };
        // Published, found by the verification, kept, current, next, lost.
        type Case = (&'static str, Published, Damage, bool, u64, u64, bool);
        let cases: Vec<Case> = vec![
            ("nothing", Published::Nothing(0), Damage::default(), false, 0, 1, false),
            ("a first that did not end", Published::Nothing(1), Damage::default(), false, 0, 2, false),
            ("lost", lost, Damage::default(), false, 0, 8, true),
            ("current", current(5), Damage::default(), true, 5, 6, false),
            ("put back", current(5), ahead(8), false, 0, 9, true),
            ("put back, and mended by another", current(9), ahead(8), true, 9, 10, false),
        ];
        for (name, published, damage, kept, version, next, lost) in cases {
            let basis = Basis::of(published, &damage);
            let found = (basis.kept().is_some(), basis.version(), basis.next_version(), basis.lost.is_some());
            assert_eq!(found, (kept, version, next, lost), "{name}");
        }
    }
}
