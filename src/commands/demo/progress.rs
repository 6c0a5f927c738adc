//! One progress bar per stage; without a terminal, one line per stage when it is done.

use anyhow::{Context, Result};
use freshet_sinks::ledger::register;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sqlx::PgPool;

use crate::commands::generate::SampleFile;
use crate::commands::terminal::thousands;
use crate::status::arrival::Arrival;

const STAGES: [&str; 5] = ["files found", "rows published", "rows applied", "rows rejected", "outputs refreshed"];

pub(super) struct Progress {
    bars: [ProgressBar; 5],
    hidden: bool,
    keys: Vec<String>,
    /// Objects above this id are ours.
    known_before: i64,
    marks_seen: i64,
}

impl Progress {
    /// Bars at zero.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub(super) async fn start(pool: &PgPool, files: &[SampleFile]) -> Result<Self> {
        let known_before = register::newest_id(pool).await.context("read the ledger")?;
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("  {prefix:<18} {bar:44.cyan/238} {human_pos:>9} of {human_len}")
            .context("lay out the bars")?
            .progress_chars("━╸─");
        let counts = ProgressStyle::with_template("  {prefix:<18} {wide_msg}").context("lay out the bars")?;
        let bars = STAGES.map(|stage| {
            let style = if stage == "rows rejected" { counts.clone() } else { style.clone() };
            all.add(ProgressBar::new(0).with_style(style).with_prefix(stage))
        });
        let hidden = bars[0].is_hidden();
        bars[0].set_length(files.len() as u64);
        let keys = files.iter().map(|file| file.key.clone()).collect();
        Ok(Progress { bars, hidden, keys, known_before, marks_seen: 0 })
    }

    /// Moves the bars to where things are.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub(super) async fn look(&mut self, pool: &PgPool) -> Result<()> {
        let far = Arrival::read(pool, self.known_before, &self.keys).await.context("read the progress of the files")?;
        self.show(&far);
        Ok(())
    }

    fn show(&mut self, far: &Arrival) {
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        let [found, published, applied, rejected, outputs] = &self.bars;
        found.set_position(count(far.found));
        published.set_length(count(expected(far, self.keys.len())));
        published.set_position(count(far.published));
        applied.set_length(count(far.published - far.rejected));
        applied.set_position(count(far.applied));
        rejected.set_message(thousands(far.rejected));
        rejected.set_position(count(far.rejected));
        self.marks_seen = self.marks_seen.max(far.marks);
        outputs.set_length(count(self.marks_seen));
        outputs.set_position(count(self.marks_seen - far.marks));
    }

    /// Leaves the bars as they are; without a terminal, prints one line per stage.
    pub(super) fn finish(self) {
        for bar in &self.bars {
            if self.hidden {
                println!("  {:<18} {:>9}", bar.prefix(), thousands(bar.position().cast_signed()));
            }
            bar.abandon();
        }
    }
}

/// How many rows there will be: those known, and as many a file for the files whose rows are not.
fn expected(far: &Arrival, files: usize) -> i64 {
    let files = files as i64;
    match far.counted {
        0 => far.published.max(1),
        counted => far.published.max(far.published * files / counted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_to_come_are_estimated_until_all_files_are_counted() {
        let far = Arrival { found: 4, counted: 2, published: 100, applied: 0, rejected: 0, marks: 0 };
        assert_eq!(expected(&far, 4), 200);
        assert_eq!(expected(&Arrival { counted: 4, ..far }, 4), 100);
        assert_eq!(expected(&Arrival { counted: 0, published: 0, ..far }, 4), 1);
    }
}
