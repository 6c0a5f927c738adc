//! A child that dies is restarted on the same ports and data; one that keeps dying ends the stack.
//!
//! [`Deaths`] decides between the two, [`Part::keep`] does it. The parts are kept side by side, so that two that die
//! together come back together. The clients reconnect by themselves: they never learn that there was another process.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::child::{Child, Exited, NotStarted};
use super::components::Components;
use super::folder::Folder;
use super::{kafka, postgres, s3};

/// After this many deaths within [`WINDOW`] the cause must still exist.
const DEATHS_MAX: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    StartAgain,
    GiveUp,
}

/// The times of a child's last deaths, the oldest first; [`DEATHS_MAX`] of them at most.
#[derive(Debug, Default)]
struct Deaths(VecDeque<Instant>);

impl Deaths {
    /// Records a death at `now` and decides what follows.
    ///
    /// | deaths within the last minute, with this one | decision |
    /// |---|---|
    /// | one or two | start again |
    /// | three | give up |
    fn record(&mut self, now: Instant) -> Decision {
        self.0.retain(|&death| now.saturating_duration_since(death) < WINDOW);
        self.0.push_back(now);
        if self.0.len() < DEATHS_MAX { Decision::StartAgain } else { Decision::GiveUp }
    }
}

/// Which of the three programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Kafka,
    Postgres,
    S3,
}

impl Program {
    pub(super) async fn start(self, folder: &Folder, components: &Components) -> anyhow::Result<Child> {
        match self {
            Program::Kafka => kafka::start(folder, components).await,
            Program::Postgres => postgres::start(folder, components, postgres::place(folder)).await,
            Program::S3 => s3::start(folder, components).await,
        }
    }
}

/// A child and what it takes to start it again.
#[derive(Debug)]
pub(super) struct Part {
    program: Program,
    /// None while it is being started again.
    child: Option<Child>,
    deaths: Deaths,
}

impl Part {
    pub(super) fn new(program: Program, child: Child) -> Part {
        Part { program, child: Some(child), deaths: Deaths::default() }
    }

    pub(super) fn exited(&mut self) -> Option<Exited> {
        self.child.as_mut().and_then(Child::exited)
    }

    /// Keeps the child running; returns why it cannot go on. Safe to drop at any point: a child that is just being
    /// started ends then.
    pub(super) async fn keep(&mut self, folder: &Folder, components: &Components) -> anyhow::Error {
        loop {
            let mut exited = died(|| self.exited()).await;
            // Dropped before the next start: it takes its record away.
            self.child = None;
            while self.child.is_none() {
                let Exited { name, pid, status, log } = &exited;
                match self.deaths.record(Instant::now()) {
                    Decision::GiveUp => {
                        return anyhow!(
                            "{name} died {DEATHS_MAX} times within a minute (the last time: {status}), see {}",
                            log.display()
                        );
                    }
                    // The id tells two deaths of the same kind apart.
                    Decision::StartAgain => tracing::warn!(pid, "{exited}; it is restarted"),
                }
                match self.program.start(folder, components).await {
                    Ok(child) => self.child = Some(child),
                    Err(error) => match error.downcast_ref::<NotStarted>().and_then(NotStarted::exited) {
                        Some(again) => exited = again,
                        None => return error.context(format!("start {name} again after it died ({status})")),
                    },
                }
            }
        }
    }

    pub(super) async fn start_again(&mut self, folder: &Folder, components: &Components) -> anyhow::Result<()> {
        if self.exited().is_some() {
            self.child = None;
        }
        if self.child.is_none() {
            self.child = Some(self.program.start(folder, components).await?);
        }
        Ok(())
    }

    pub(super) async fn stop(self) {
        if let Some(child) = self.child {
            child.stop().await;
        }
    }
}

/// Looks until there is an end to report.
pub(super) async fn died(mut look: impl FnMut() -> Option<Exited>) -> Exited {
    loop {
        if let Some(exited) = look() {
            return exited;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_deaths_within_a_minute_are_given_up_and_fewer_are_not() {
        use Decision::{GiveUp, StartAgain};
        for (story, seconds, expected) in [
            ("one", &[0][..], &[StartAgain][..]),
            ("two at once", &[0, 0], &[StartAgain, StartAgain]),
            ("three at once", &[0, 0, 0], &[StartAgain, StartAgain, GiveUp]),
            ("the third in the last second", &[0, 30, 59], &[StartAgain, StartAgain, GiveUp]),
            ("the third a minute after the first", &[0, 30, 60], &[StartAgain; 3]),
            ("one every half a minute for ever", &[0, 30, 60, 90, 120, 150], &[StartAgain; 6]),
            (
                "old ones do not count",
                &[0, 1, 100, 101, 102],
                &[StartAgain, StartAgain, StartAgain, StartAgain, GiveUp],
            ),
        ] {
            let (start, mut deaths) = (Instant::now(), Deaths::default());
            let decided: Vec<Decision> =
                seconds.iter().map(|&at| deaths.record(start + Duration::from_secs(at))).collect();
            assert_eq!(decided, expected, "{story}");
        }
    }
}
