//! The report of `freshet bench --scale`: how the processes shared the rows, what a row costs, and whether a plan made
//! with these costs fits.

use super::cost::Cost;
use super::scale::PARTITIONS;
use super::worker::Done;
use crate::commands::capacity::{CapacityOptions, Plan, RowCost, bytes};
use crate::commands::terminal::{Look, table, thousands};

/// What was used and written until some moment, or between two.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// When, or how long, in seconds.
    pub(super) at: f64,
    pub(super) rows: f64,
    pub(super) csv_bytes: f64,
    /// Seconds of CPU of the listeners.
    pub(super) ingest: f64,
    pub(super) process: f64,
    pub(super) metrics: f64,
    /// The same of everything, by part.
    pub(super) parts: Cost,
    /// Of Postgres' WAL.
    pub(super) log_bytes: f64,
    /// Of the tables and their indexes.
    pub(super) table_bytes: f64,
    pub(super) topic_bytes: f64,
}

impl Usage {
    pub(super) fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            at: self.at - earlier.at,
            rows: self.rows - earlier.rows,
            csv_bytes: self.csv_bytes - earlier.csv_bytes,
            ingest: self.ingest - earlier.ingest,
            process: self.process - earlier.process,
            metrics: self.metrics - earlier.metrics,
            parts: self.parts.since(&earlier.parts),
            log_bytes: self.log_bytes - earlier.log_bytes,
            table_bytes: self.table_bytes - earlier.table_bytes,
            topic_bytes: self.topic_bytes - earlier.topic_bytes,
        }
    }

    fn rate(&self) -> f64 {
        self.rows / self.at
    }

    /// What a row cost.
    fn cost(&self) -> RowCost {
        let microseconds = |seconds: f64| seconds * 1e6 / self.rows;
        let beyond = |bytes: f64| ((bytes - self.csv_bytes) / self.rows).max(0.0);
        RowCost {
            ingest_us: microseconds(self.ingest),
            process_us: microseconds(self.process),
            metrics_us: microseconds(self.metrics),
            kafka_us: microseconds(self.parts.kafka),
            postgres_us: microseconds(self.parts.postgres),
            topic_share: self.topic_bytes / self.csv_bytes,
            log_overhead: beyond(self.log_bytes),
            table_overhead: beyond(self.table_bytes),
        }
    }

    fn row_bytes(&self) -> u64 {
        (self.csv_bytes / self.rows).round() as u64
    }
}

/// What a process did while others came and went.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Share {
    pub(super) name: String,
    /// `added`, `stopped` or nothing.
    pub(super) note: &'static str,
    pub(super) done: Done,
    /// Rows of all processes of its role.
    pub(super) of_rows: u64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scaled {
    pub(super) listeners: u64,
    /// Of a domain.
    pub(super) processors: u64,
    /// By the same processes all through.
    pub(super) steady: Usage,
    /// While one of each was added, and one stopped.
    pub(super) changed: Usage,
    pub(super) shares: Vec<Share>,
}

pub(super) fn render(scaled: &Scaled, look: Look) -> String {
    let Scaled { listeners, processors, steady, changed, shares } = scaled;
    let rate = |usage: &Usage| thousands(usage.rate().round() as i64);
    let cost = steady.cost();
    [
        format!(
            "{} rows of {} bytes, {PARTITIONS} partitions a topic; listeners: {listeners}, processors of a domain: {processors}",
            thousands((steady.rows + changed.rows) as i64),
            steady.row_bytes(),
        ),
        format!("first half:  {} rows/s, by the same processes all through", rate(steady)),
        format!("second half: {} rows/s; of each, one was added meanwhile, and the first was stopped", rate(changed)),
        String::new(),
        shares_table(shares, look),
        look.faint("The rows of the second half. Each row is in its table, and counted once."),
        String::new(),
        costs_table(steady, changed, look),
        look.faint("What a row costs, starting the processes that were added included."),
        String::new(),
        plan_table(&cost, changed, look),
        look.faint("The second half, as planned from what a row of the first half cost, and as measured."),
        String::new(),
        "A plan with these costs:".to_owned(),
        format!("freshet capacity --rows-per-day 10000000000 --row-bytes {} {}", steady.row_bytes(), cost.options()),
    ]
    .join("\n")
}

fn shares_table(shares: &[Share], look: Look) -> String {
    let mut records = vec![["process", "", "files", "rows", "share"].map(str::to_owned).to_vec()];
    records.extend(shares.iter().map(|Share { name, note, done, of_rows }| {
        let files = if done.files > 0 { done.files.to_string() } else { String::new() };
        let share = format!("{:.0} %", done.rows as f64 * 100.0 / (*of_rows).max(1) as f64);
        vec![name.clone(), (*note).to_owned(), files, thousands(done.rows.cast_signed()), share]
    }));
    table(look, &records, 2)
}

fn costs_table(steady: &Usage, changed: &Usage, look: Look) -> String {
    let line = |name: &str, of: fn(&Usage) -> f64, show: fn(f64) -> String| {
        [name.to_owned(), show(of(steady) / steady.rows), show(of(changed) / changed.rows)]
    };
    let microseconds = |seconds: f64| format!("{:.2} µs", seconds * 1e6);
    let size = |bytes: f64| format!("{bytes:.0} bytes");
    let records = [
        ["a row", "first half", "second half"].map(str::to_owned),
        line("CPU of the listeners", |it| it.ingest, microseconds),
        line("CPU of the processors", |it| it.process, microseconds),
        line("CPU of the outputs' role", |it| it.metrics, microseconds),
        line("CPU of Postgres", |it| it.parts.postgres, microseconds),
        line("CPU of Kafka", |it| it.parts.kafka, microseconds),
        line("CPU of SeaweedFS", |it| it.parts.store, microseconds),
        line("in its CSV file", |it| it.csv_bytes, size),
        line("in the topic", |it| it.topic_bytes, size),
        line("in Postgres' WAL", |it| it.log_bytes, size),
        line("in the table and its indexes", |it| it.table_bytes, size),
    ];
    table(look, &records.map(Vec::from), 1)
}

/// The plan for the measured rate beside what the rate took.
fn plan_table(cost: &RowCost, usage: &Usage, look: Look) -> String {
    let plan = Plan::new(&CapacityOptions {
        rows_per_day: (usage.rate() * 86_400.0) as u64,
        row_bytes: usage.row_bytes(),
        hours: 24,
        kafka_days: 1,
        replicas: 1,
        table_days: 1,
        busy: 100,
        json: false,
        cost: *cost,
    });
    let cores = |value: f64| format!("{value:.2} cores");
    let speed = |value: f64| format!("{}/s", bytes(value));
    let freshet = usage.ingest + usage.process + usage.metrics;
    let line = |name: &str, show: &dyn Fn(f64) -> String, planned: f64, used: f64| {
        let measured = used / usage.at;
        vec![name.to_owned(), show(planned), show(measured), format!("{:.0} %", measured * 100.0 / planned)]
    };
    let records = [
        ["", "planned", "measured", "measured ÷ planned"].map(str::to_owned).to_vec(),
        line("freshet", &cores, plan.freshet_cores, freshet),
        line("Kafka", &cores, plan.kafka_cores, usage.parts.kafka),
        line("Postgres", &cores, plan.postgres_cores, usage.parts.postgres),
        line("topics", &speed, plan.kafka_bytes_per_second, usage.topic_bytes),
        line("Postgres' WAL", &speed, plan.postgres_log_bytes_per_second, usage.log_bytes),
        line("tables and indexes", &speed, plan.postgres_bytes_per_day / 86_400.0, usage.table_bytes),
    ];
    table(look, &records, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage {
            at: 10.0,
            rows: 1_000_000.0,
            csv_bytes: 50_000_000.0,
            ingest: 1.0,
            process: 2.0,
            metrics: 0.5,
            parts: Cost { postgres: 5.0, kafka: 1.5, store: 1.2, ..Cost::default() },
            log_bytes: 250_000_000.0,
            table_bytes: 30_000_000.0,
            topic_bytes: 20_000_000.0,
        }
    }

    #[test]
    fn what_a_row_costs_is_printed_as_the_options_of_the_plan() {
        let cost = usage().cost();
        assert_eq!((cost.ingest_us, cost.process_us, cost.kafka_us, cost.postgres_us), (1.0, 2.0, 1.5, 5.0));
        // A table that is smaller than its files costs nothing beyond them.
        assert_eq!((cost.topic_share, cost.log_overhead, cost.table_overhead), (0.4, 200.0, 0.0));
        let expected = "--ingest-us 1.00 --process-us 2.00 --metrics-us 0.50 --kafka-us 1.50 --postgres-us 5.00 \
                        --topic-share 0.40 --log-overhead 200 --table-overhead 0";
        assert_eq!(cost.options(), expected);
        let twice = Usage { at: 12.0, ingest: 1.25, ..usage() };
        assert_eq!(twice.since(&usage()), Usage { at: 2.0, ingest: 0.25, ..Usage::default() });
    }

    #[test]
    fn the_plan_of_a_measured_load_is_what_was_measured() {
        let usage = Usage { table_bytes: 200_000_000.0, ..usage() };
        let text = plan_table(&usage.cost(), &usage, Look::PLAIN);
        assert_eq!(text.matches(" 100 % ").count(), 6, "{text}");
        // At half the speed, and with twice the log.
        let other = Usage { at: 20.0, log_bytes: 500_000_000.0, ..usage };
        let text = plan_table(&usage.cost(), &other, Look::PLAIN);
        assert_eq!((text.matches(" 100 % ").count(), text.matches(" 200 % ").count()), (5, 1), "{text}");
        assert!(text.contains("0.25 cores"), "{text}");
    }

    #[test]
    fn lines_fit_and_shares_are_of_the_role() {
        let share = |name: &str, note, files, rows| Share {
            name: name.to_owned(),
            note,
            done: Done { files, rows },
            of_rows: 1_000_000,
        };
        let scaled = Scaled {
            listeners: 2,
            processors: 2,
            steady: usage(),
            changed: usage(),
            shares: vec![share("ingest 1", "stopped", 7, 250_000), share("process climate 3", "added", 0, 123_000)],
        };
        let text = render(&scaled, Look::PLAIN);
        for part in ["100,000 rows/s", "250,000 │  25 %", "123,000 │  12 %", "250 bytes", "1.20 µs"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let command = text.lines().last().expect("a line");
        assert!(command.starts_with("freshet capacity --rows-per-day 10000000000 --row-bytes 50 --ingest-us"));
        assert!(text.lines().all(|line| line == command || line.chars().count() <= 110), "{text}");
        println!("{text}");
    }
}
