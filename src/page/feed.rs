//! One reading of the state for all viewers, at most once a second, and none without viewers.
//!
//! A reading is a handful of named sections as JSON. Each viewer is sent the sections that have changed since it was
//! last sent any, whichever readings it missed meanwhile: a slow one gets fewer, never a backlog.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// From one reading to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// A reading that took long is followed by a pause so many times as long: watching costs a fifth of a connection.
const PAUSES: u32 = 4;
/// The longest pause, also if that costs more: one slow reading must not leave old numbers on the page for a minute.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Viewers at once. A few people and their forgotten tabs; each costs a connection.
const VIEWERS: usize = 32;

/// What is read: JSON by the name of its section. Sections are sent in the order of their names.
pub(super) type Sections = BTreeMap<&'static str, String>;

/// Where the state is read from.
pub(super) trait Source: Send {
    /// All sections, as they are now. It has bounds of its own: it is not cut short.
    fn read(&mut self) -> impl Future<Output = Reading> + Send;
}

/// What was read, and what it cost.
pub(super) struct Reading {
    pub(super) sections: Sections,
    /// How long services worked for it. Waiting for one that does not answer costs nobody anything.
    pub(super) work: Duration,
}

/// A section as a viewer is sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) json: Arc<str>,
    /// The reading in which it became what it is.
    since: u64,
}

#[derive(Debug, Default)]
struct Latest {
    /// Readings so far.
    readings: u64,
    sections: Vec<Section>,
}

/// The readings, and who watches them.
pub(super) struct Feed {
    latest: watch::Sender<Latest>,
    places: Arc<Semaphore>,
    came: Notify,
}

impl Default for Feed {
    fn default() -> Self {
        Feed { latest: watch::Sender::default(), places: Arc::new(Semaphore::new(VIEWERS)), came: Notify::new() }
    }
}

impl Feed {
    /// Reads for as long as there is a viewer, and again once there is one, until `shutdown`.
    pub(super) async fn run(&self, mut source: impl Source, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.watched()).await.is_some() {
            let started = Instant::now();
            let Reading { sections, work } = source.read().await;
            self.latest.send_modify(|latest| latest.take(sections));
            shutdown.run_until_cancelled(tokio::time::sleep(pause_after(started.elapsed(), work))).await;
        }
    }

    /// Waits for a viewer. Readings from before a pause are dropped: they are old.
    async fn watched(&self) {
        while self.latest.receiver_count() == 0 {
            self.latest.send_modify(|latest| latest.sections.clear());
            self.came.notified().await;
        }
    }

    /// The sections as they change, all of them first; `None` if there are too many viewers.
    pub(super) fn view(&self) -> Option<impl Stream<Item = Section> + use<>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut latest = self.latest.subscribe();
        latest.mark_changed();
        self.came.notify_one();
        let viewer = Viewer { latest, seen: 0, _place: place };
        Some(stream::unfold(viewer, Viewer::next).flat_map(stream::iter))
    }
}

/// The pause after a reading that took so long, of which services worked so long.
///
/// | took | work | pause |
/// |---|---|---|
/// | 20 ms | 20 ms | 980 ms |
/// | 200 ms | 200 ms | 800 ms |
/// | 2 s | 2 s | 8 s |
/// | 3 s | 3 s | 10 s |
/// | 2 s, waiting for one that is away | 20 ms | 80 ms |
fn pause_after(took: Duration, work: Duration) -> Duration {
    INTERVAL.saturating_sub(took).max((work * PAUSES).min(PAUSE_MAX))
}

impl Latest {
    fn take(&mut self, sections: Sections) {
        self.readings += 1;
        let before = std::mem::take(&mut self.sections);
        self.sections.extend(sections.into_iter().map(|(name, json)| {
            let same = before.iter().find(|section| section.name == name && *section.json == *json);
            same.cloned().unwrap_or_else(|| Section { name, json: json.into(), since: self.readings })
        }));
    }
}

struct Viewer {
    latest: watch::Receiver<Latest>,
    /// The last reading of which it was told.
    seen: u64,
    _place: OwnedSemaphorePermit,
}

impl Viewer {
    /// What has changed, once something has.
    async fn next(mut self) -> Option<(Vec<Section>, Viewer)> {
        self.latest.changed().await.ok()?;
        let changed = {
            let latest = self.latest.borrow_and_update();
            let changed = latest.sections.iter().filter(|section| section.since > self.seen).cloned().collect();
            self.seen = latest.readings;
            changed
        };
        Some((changed, self))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A section that counts the readings, and one that stays as it is.
    struct Counting(Arc<AtomicU64>);

    impl Source for Counting {
        async fn read(&mut self) -> Reading {
            let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            let sections = Sections::from([("count", number.to_string()), ("same", "0".to_owned())]);
            Reading { sections, work: Duration::ZERO }
        }
    }

    /// A feed that runs until the token is cancelled, and how often it has read.
    fn start() -> (Arc<Feed>, Arc<AtomicU64>, CancellationToken) {
        let (feed, readings, shutdown) = (Arc::new(Feed::default()), Arc::default(), CancellationToken::new());
        let (running, source, until) = (Arc::clone(&feed), Counting(Arc::clone(&readings)), shutdown.clone());
        tokio::spawn(async move { running.run(source, until).await });
        (feed, readings, shutdown)
    }

    fn shown(section: Option<Section>) -> (&'static str, String) {
        let section = section.expect("a section");
        (section.name, section.json.to_string())
    }

    #[tokio::test]
    async fn nothing_is_read_while_nobody_looks_and_once_for_all_who_do() {
        let (feed, readings, shutdown) = start();
        tokio::time::sleep(INTERVAL / 4).await;
        assert_eq!(readings.load(Ordering::SeqCst), 0);

        let mut one = Box::pin(feed.view().expect("a place"));
        assert_eq!(shown(one.next().await), ("count", "1".into()));
        assert_eq!(shown(one.next().await), ("same", "0".into()));
        let mut other = Box::pin(feed.view().expect("a place"));
        assert_eq!(shown(other.next().await), ("count", "1".into()), "no reading of its own");
        assert_eq!(shown(other.next().await), ("same", "0".into()));
        // What is as it was is not sent again.
        for number in ["2", "3"] {
            assert_eq!(shown(one.next().await), ("count", number.into()));
        }
        // Whoever was slow gets the newest only.
        assert_eq!(shown(other.next().await), ("count", "3".into()));

        drop((one, other));
        while !feed.latest.borrow().sections.is_empty() {
            tokio::time::sleep(INTERVAL / 10).await;
        }
        let before = readings.load(Ordering::SeqCst);
        assert!(before <= 4, "it went on with nobody there");
        let mut again = Box::pin(feed.view().expect("a place"));
        assert_eq!(shown(again.next().await), ("count", (before + 1).to_string()), "not what was read before");
        assert_eq!(shown(again.next().await).0, "same");
        shutdown.cancel();
    }

    #[test]
    fn a_reading_that_takes_long_is_made_less_often() {
        let of = Duration::from_millis;
        let cases =
            [(0, 1_000), (20, 980), (200, 800), (250, 1_000), (2_000, 8_000), (3_000, 10_000), (20_000, 10_000)];
        for (took, pause) in cases {
            assert_eq!(pause_after(of(took), of(took)), of(pause), "{took} ms");
        }
        assert_eq!(pause_after(of(2_000), of(20)), of(80), "waiting is no work");
    }

    #[tokio::test]
    async fn there_is_no_place_for_any_number_of_viewers() {
        let (feed, _, shutdown) = start();
        let mut viewers: Vec<_> = (0..VIEWERS).map(|_| feed.view().expect("a place")).collect();
        assert!(feed.view().is_none());
        viewers.pop();
        assert!(feed.view().is_some());
        shutdown.cancel();
    }
}
