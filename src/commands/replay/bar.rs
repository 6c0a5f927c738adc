//! The progress of a replay: a bar with the rows so far and the time left; without a terminal, a line from time to
//! time.

use std::time::{Duration, Instant};

use freshet_processors::replay::{Progress, ProgressSender};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::commands::terminal::{span, thousands};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// A bar that moves by itself.
pub(in crate::commands) struct Bar {
    began: Instant,
    task: JoinHandle<()>,
    bar: ProgressBar,
}

/// Starts one below the others.
pub(in crate::commands) fn start(bars: &MultiProgress, name: &'static str) -> (Bar, ProgressSender) {
    let (progress, seen) = watch::channel(Progress::default());
    let style = "  {prefix:<10} {bar:36.cyan/238} {human_pos:>9} of {human_len} messages  {msg}  {eta} left";
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bars.add(ProgressBar::new(0).with_prefix(name).with_style(style.progress_chars("━╸─")));
    let began = Instant::now();
    let task = tokio::spawn(follow(name, bar.clone(), seen, began));
    (Bar { began, task, bar }, progress)
}

/// Does something below a bar of its own, which tells its progress. Gives the result, and how long it took.
pub(in crate::commands) async fn during<T, E>(
    bars: &MultiProgress,
    name: &'static str,
    work: impl AsyncFnOnce(&ProgressSender) -> Result<T, E>,
) -> Result<(T, Duration), E> {
    let (bar, progress) = start(bars, name);
    let done = work(&progress).await;
    let took = bar.finish().await;
    Ok((done?, took))
}

impl Bar {
    /// Takes it away, and gives how long it stood.
    pub(in crate::commands) async fn finish(self) -> Duration {
        self.task.abort();
        self.bar.finish_and_clear();
        self.began.elapsed()
    }
}

async fn follow(name: &'static str, bar: ProgressBar, seen: watch::Receiver<Progress>, began: Instant) {
    let mut said = Instant::now();
    loop {
        let progress = *seen.borrow();
        bar.set_length(progress.total.unsigned_abs());
        bar.set_position(progress.done.unsigned_abs());
        bar.set_message(format!("{} rows", thousands(progress.rows)));
        if bar.is_hidden() && said.elapsed() > LINE && progress.total > 0 {
            said = Instant::now();
            eprintln!("{}", line(name, progress, began.elapsed()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn line(name: &str, Progress { done, total, rows, .. }: Progress, took: Duration) -> String {
    let rate = |count: i64| count as f64 / took.as_secs_f64().max(0.001);
    // A message may have hundreds of rows: less than one a second is no standstill.
    let left = Duration::from_secs_f64((total - done).max(0) as f64 / rate(done).max(0.001));
    format!(
        "{name}: {} of {} messages, {} rows ({} a second), {} left",
        thousands(done),
        thousands(total),
        thousands(rows),
        thousands(rate(rows) as i64),
        span(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let progress = Progress { done: 1_250, total: 5_000, rows: 250_000, copied: 0 };
        let expected = "health: 1,250 of 5,000 messages, 250,000 rows (50,000 a second), 15.0s left";
        assert_eq!(line("health", progress, Duration::from_secs(5)), expected);
    }
}
