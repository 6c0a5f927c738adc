//! How far a replay is: a bar with rate and time left; where there is no terminal, a line now and then.

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
    let style = "  {prefix:<10} {bar:36.cyan/238} {human_pos:>9} of {human_len}  {per_sec}  {eta} left";
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bars.add(ProgressBar::new(0).with_prefix(name).with_style(style.progress_chars("━╸─")));
    let began = Instant::now();
    let task = tokio::spawn(follow(name, bar.clone(), seen, began));
    (Bar { began, task, bar }, progress)
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
        if bar.is_hidden() && said.elapsed() > LINE && progress.total > 0 {
            said = Instant::now();
            eprintln!("{}", line(name, progress, began.elapsed()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn line(name: &str, Progress { done, total }: Progress, took: Duration) -> String {
    let rate = done as f64 / took.as_secs_f64().max(0.001);
    let left = Duration::from_secs_f64((total - done).max(0) as f64 / rate.max(1.0));
    format!(
        "{name}: {} of {} records, {} a second, {} left",
        thousands(done),
        thousands(total),
        thousands(rate as i64),
        span(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let progress = Progress { done: 250_000, total: 1_000_000 };
        let expected = "health: 250,000 of 1,000,000 records, 50,000 a second, 15.0s left";
        assert_eq!(line("health", progress, Duration::from_secs(5)), expected);
    }
}
