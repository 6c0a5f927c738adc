//! The report: min, median and max over the runs, the target beside the result.

use std::time::Duration;

use super::BenchOptions;
use super::cost::Cost;
use super::replayed::Replayed;
use crate::commands::terminal::{Look, table, thousands};

/// What one run measured; rates in rows a second.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) freshet: f64,
    /// Until the outputs were published too.
    pub(super) outputs_seconds: f64,
    pub(super) copy: f64,
    pub(super) script: f64,
    /// The script of polars'; 0 where that is not installed.
    pub(super) polars: f64,
    /// From the first byte sent until every row was committed.
    pub(super) cost: Cost,
    /// One a small file.
    pub(super) visible: Vec<Duration>,
    /// Many small files at once where nobody listens, files a second.
    pub(super) put_rate: f64,
    /// Many small files at once, files a second.
    pub(super) many_rate: f64,
    /// Of one of them.
    pub(super) many_cost: Cost,
    /// Until applied, one a file.
    pub(super) many_applied: Vec<Duration>,
    /// A replay that had nothing to correct.
    pub(super) unchanged: Replayed,
    /// A replay that had every row to correct.
    pub(super) corrected: Replayed,
    /// The same into shadows, until they are in the place of the tables.
    pub(super) swapped: Replayed,
    pub(super) peak_memory_bytes: u64,
}

/// The value at or below which a share of the values lie (nearest rank); 0 without values.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).or(sorted.last()).copied().unwrap_or(0.0)
}

/// The same of durations, in milliseconds.
fn percentile_ms(durations: &[Duration], share: f64) -> f64 {
    percentile(&durations.iter().map(|it| it.as_secs_f64() * 1_000.0).collect::<Vec<_>>(), share)
}

fn rate(value: f64) -> String {
    thousands(value.round() as i64)
}

fn share(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

fn seconds(value: f64) -> String {
    format!("{value:.1}")
}

fn milliseconds(value: f64) -> String {
    format!("{value:.0} ms")
}

fn microseconds(value: f64) -> String {
    format!("{value:.1} µs")
}

fn whole_microseconds(value: f64) -> String {
    format!("{value:.0} µs")
}

fn memory(value: f64) -> String {
    format!("{:.0} MiB", value / f64::from(1 << 20))
}

fn has_polars(runs: &[Run]) -> bool {
    runs.iter().any(|run| run.polars > 0.0)
}

pub(super) fn render(options: &BenchOptions, rows: i64, runs: &[Run], look: Look) -> String {
    let notes: Vec<String> = notes(options, rows, runs).iter().map(|note| look.faint(note)).collect();
    format!("{}\n{}", table(look, &records(rows, runs), 1), notes.join("\n"))
}

/// The lines of the table, its heading first.
fn records(rows: i64, runs: &[Run]) -> Vec<Vec<String>> {
    let mut records = vec![["", "min", "median", "max", "target"].map(str::to_owned).to_vec()];
    let mut line = |name: &str, of: &dyn Fn(&Run) -> f64, show: fn(f64) -> String, target: &str| {
        let values: Vec<f64> = runs.iter().map(of).collect();
        let mut record = vec![name.to_owned()];
        record.extend([0.0, 0.5, 1.0].map(|share| show(percentile(&values, share))));
        record.push(target.to_owned());
        records.push(record);
    };
    let has_polars = has_polars(runs);
    line("freshet, rows/s", &|run| run.freshet, rate, "≥ 60,000");
    line("COPY into a keyed table, rows/s (the limit)", &|run| run.copy, rate, "");
    line("COPY to staging and upsert, rows/s", &|run| run.script, rate, "");
    if has_polars {
        line("a script of polars', rows/s", &|run| run.polars, rate, "");
    }
    line("freshet ÷ COPY", &|run| run.freshet / run.copy, share, "≥ 75 %");
    line("freshet ÷ staging and upsert", &|run| run.freshet / run.script, share, "");
    if has_polars {
        line("freshet ÷ polars", &|run| run.freshet / run.polars, share, "≥ 60 %");
    }
    let cost = |of: fn(&Cost) -> f64| move |run: &Run| of(&run.cost) * 1e6 / rows as f64;
    line("CPU a row", &cost(Cost::all), microseconds, "≤ 12.5 µs");
    line("  of freshet", &cost(|cost| cost.freshet), microseconds, "");
    line("  of Postgres", &cost(|cost| cost.postgres), microseconds, "");
    line("  of Kafka", &cost(|cost| cost.kafka), microseconds, "");
    line("  of SeaweedFS", &cost(|cost| cost.store), microseconds, "");
    line("cores idle meanwhile", &|run| run.cost.idle_share(), share, "≤ 5 %");
    line("until the outputs are published too, s", &|run| run.outputs_seconds, seconds, "");
    line("drop to visible, p50", &|run| percentile_ms(&run.visible, 0.5), milliseconds, "< 300 ms");
    line("drop to visible, p99", &|run| percentile_ms(&run.visible, 0.99), milliseconds, "< 1,000 ms");
    line("many small files, PUT alone, files/s (the limit)", &|run| run.put_rate, rate, "");
    line("many small files, files/s", &|run| run.many_rate, rate, "≥ 1,000");
    let many_cost = |of: fn(&Cost) -> f64| move |run: &Run| of(&run.many_cost) * 1e6;
    line("CPU a small file", &many_cost(Cost::all), whole_microseconds, "");
    line("  of freshet", &many_cost(|cost| cost.freshet), whole_microseconds, "");
    line("  of Postgres", &many_cost(|cost| cost.postgres), whole_microseconds, "");
    line("  of Kafka", &many_cost(|cost| cost.kafka), whole_microseconds, "");
    line("  of SeaweedFS", &many_cost(|cost| cost.store), whole_microseconds, "");
    line("many small files until applied, p50", &|run| percentile_ms(&run.many_applied, 0.5), milliseconds, "");
    line("many small files until applied, p99", &|run| percentile_ms(&run.many_applied, 0.99), milliseconds, "");
    let mut replay = |name: &str, of: fn(&Run) -> &Replayed| {
        let visible = |run: &Run| percentile_ms(&of(run).visible, 0.99);
        line(name, &|run| of(run).rate, rate, "");
        line("  ÷ freshet", &|run| of(run).rate / run.freshet, share, "≥ 100 %");
        line("  drop to visible meanwhile, p99", &visible, milliseconds, "< 2,000 ms");
    };
    replay("replay, nothing to correct, rows/s", |run| &run.unchanged);
    replay("replay, every row to correct, rows/s", |run| &run.corrected);
    replay("the same into shadows, swapped, rows/s", |run| &run.swapped);
    line("peak memory of freshet itself", &|run| run.peak_memory_bytes as f64, memory, "< 300 MiB");
    records
}

/// What stands below it: how each number was taken.
fn notes(options: &BenchOptions, rows: i64, runs: &[Run]) -> Vec<String> {
    let mut notes = vec![
        format!("{} rows in files of {}, {} runs", thousands(rows), options.rows_per_file, runs.len()),
        "freshet: from the first byte sent to S3 until every row is committed; S3, Kafka, Postgres, all roles and"
            .into(),
        "         this program share the cores. COPY and the script: local files, no S3, no Kafka, one connection"
            .into(),
        "         a table, all at once, in the same Postgres.".into(),
        format!(
            "visible: from before a one-row file is sent until its row is selected, {} files a run",
            options.small_files
        ),
        format!("many:    {} files of one row, dropped by 16 clients at once", thousands(options.many_files.into())),
        "         PUT alone: the same files into the bucket of the outputs, which freshet does not read there".into(),
        "replay:  `freshet replay all --from beginning` beside the running pipeline, from its beginning to its end;"
            .into(),
        "         small files are dropped one after the other meanwhile; into shadows: with `--into shadow --swap`"
            .into(),
        "memory:  VmHWM of the `freshet up` process; Kafka, Postgres and S3 are processes of their own".into(),
    ];
    notes.push(match has_polars(runs) {
        true => "polars:  one process a table reads the same files, casts, cleans, COPYs and upserts; no S3, no Kafka"
            .into(),
        false => "polars:  not installed; `scripts/setup bench` installs it".into(),
    });
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=50).rev().map(f64::from).collect();
        for (share, value) in [(0.0, 1.0), (0.5, 25.0), (0.99, 50.0), (1.0, 50.0)] {
            assert_eq!(percentile(&values, share), value);
        }
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn targets_stand_beside_results_and_lines_fit() {
        let options = BenchOptions {
            rows: 1_000_000,
            runs: 1,
            small_files: 50,
            many_files: 5_000,
            rows_per_file: 50_000,
            keep: None,
            history: false,
            scale: Default::default(),
        };
        let run = Run {
            freshet: 71_234.0,
            outputs_seconds: 18.2,
            copy: 210_000.0,
            script: 90_000.0,
            polars: 142_468.0,
            cost: Cost { freshet: 6.5, postgres: 7.0, kafka: 1.0, store: 1.25, idle: 2.0, available: 20.0 },
            visible: vec![Duration::from_millis(210); 50],
            put_rate: 2_345.0,
            many_rate: 1_234.0,
            many_cost: Cost { freshet: 0.0006, postgres: 0.0003, kafka: 0.0002, store: 0.0015, ..Cost::default() },
            many_applied: vec![Duration::from_millis(2_222); 9],
            unchanged: Replayed { rate: 142_468.0, visible: vec![Duration::from_millis(333); 9] },
            corrected: Replayed { rate: 71_234.0, visible: vec![Duration::from_millis(444); 9] },
            swapped: Replayed { rate: 106_851.0, visible: vec![Duration::from_millis(555); 9] },
            peak_memory_bytes: 200 << 20,
        };
        let text = render(&options, 1_000_000, &[run], Look::PLAIN);
        for part in [
            "71,234",
            "≥ 60,000",
            "34 %",
            "79 %",
            "210 ms",
            "2,345",
            "1,234",
            "2600 µs",
            "2222 ms",
            "200 %",
            "333 ms",
            "444 ms",
            "106,851",
            "150 %",
            "555 ms",
            "200 MiB",
            "50 %",
            "15.8 µs",
            "10 %",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
        println!("{text}");
    }
}
