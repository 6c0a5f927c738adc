//! `freshet capacity`: what a load needs, from what a row was measured to cost ([`RowCost`], `docs/performance.md`).
//!
//! A plan to begin with, not a promise: other columns, disks and machines cost something else. `freshet bench --scale`
//! measures what a row costs elsewhere, and compares the plan with what it measured.

mod cost;

use std::fmt::Write as _;

pub use cost::RowCost;
use freshet_processors::ProcessSettings;
use serde::Serialize;

use super::terminal::{Look, table, thousands};

/// Options of `freshet capacity`.
#[derive(Debug, Clone, clap::Args)]
pub struct CapacityOptions {
    /// Rows that arrive in a day
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub rows_per_day: u64,
    /// Bytes of a row in its CSV file
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub row_bytes: u64,
    /// Hours of the day in which the rows arrive
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=24))]
    pub hours: u64,
    /// Days that Kafka keeps what was published; set kafka.retention_ms to match, because by default it keeps everything
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    pub kafka_days: u64,
    /// Copies that Kafka keeps of each message
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=10))]
    pub replicas: u64,
    /// Days for which the tables keep rows
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    pub table_days: u64,
    /// How busy the cores may be; the rest is for peaks, replays, and the work of a process or server that is lost
    #[arg(long, value_name = "PERCENT", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub busy: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cost: RowCost,
}

/// A session of Postgres runs on one core: each processor keeps as many busy as it has writers. Cores of the largest servers that
/// are easy to rent; more than that, and the rows have to be shared by several databases.
const POSTGRES_CORES_MAX: f64 = 96.0;
/// As `kafka.partitions` has it unless it is set.
const PARTITIONS_MIN: u64 = 12;
/// One table of one Postgres takes at most 32 TiB; long before that, it is better partitioned by date.
const TABLE_BYTES_MAX: f64 = 32.0 * (1_u64 << 40) as f64;

/// What a load needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Plan {
    /// While rows arrive.
    pub(crate) rows_per_second: f64,
    pub(crate) ingest_processes: u64,
    pub(crate) processor_processes: u64,
    /// Of each topic, if all rows are of one domain. A multiple of the processors, so that they share evenly.
    pub(crate) partitions: u64,
    pub(crate) freshet_cores: f64,
    pub(crate) kafka_cores: f64,
    pub(crate) kafka_bytes_per_second: f64,
    pub(crate) kafka_bytes: f64,
    pub(crate) postgres_cores: f64,
    pub(crate) postgres_log_bytes_per_second: f64,
    pub(crate) postgres_bytes_per_day: f64,
    pub(crate) postgres_bytes: f64,
    /// Databases that the rows have to be shared by.
    pub(crate) databases: u64,
    /// Whether one table would be too large without partitions of its own.
    pub(crate) partition_tables: bool,
}

impl Plan {
    pub(crate) fn new(options: &CapacityOptions) -> Plan {
        let row = &options.cost;
        let rows_per_second = options.rows_per_day as f64 / (options.hours * 3_600) as f64;
        let busy = options.busy as f64 / 100.0;
        let cores = |microseconds: f64| rows_per_second * microseconds / 1e6 / busy;
        let processes = |cores: f64| cores.ceil().max(1.0) as u64;
        let row_bytes = options.row_bytes as f64;
        let topic_bytes = row_bytes * row.topic_share * options.replicas as f64;
        let table_bytes = row_bytes + row.table_overhead;
        let postgres_cores = cores(row.postgres_us);
        // As many as keep Postgres' cores busy, if that is more than their own work.
        let sessions = ProcessSettings::default().writers as f64;
        let processor_processes = processes(cores(row.process_us)).max(processes(postgres_cores / sessions));
        let postgres_bytes_per_day = options.rows_per_day as f64 * table_bytes;
        let postgres_bytes = postgres_bytes_per_day * options.table_days as f64;
        Plan {
            rows_per_second,
            ingest_processes: processes(cores(row.ingest_us)),
            processor_processes,
            // A multiple of the processors, so that they share evenly, with room to double them without making new
            // partitions, which begins a new reading of open files.
            partitions: PARTITIONS_MIN.next_multiple_of(processor_processes).max(processor_processes * 2),
            freshet_cores: cores(row.ingest_us + row.process_us + row.metrics_us),
            kafka_cores: cores(row.kafka_us * options.replicas as f64),
            kafka_bytes_per_second: rows_per_second * topic_bytes,
            kafka_bytes: options.rows_per_day as f64 * options.kafka_days as f64 * topic_bytes,
            postgres_cores,
            postgres_log_bytes_per_second: rows_per_second * (row_bytes + row.log_overhead),
            postgres_bytes_per_day,
            postgres_bytes,
            databases: processes(postgres_cores / POSTGRES_CORES_MAX),
            partition_tables: postgres_bytes > TABLE_BYTES_MAX / 10.0,
        }
    }
}

/// Says what a load needs.
///
/// # Errors
/// If the plan cannot be written as JSON.
pub fn run(options: &CapacityOptions, look: Look) -> anyhow::Result<String> {
    let plan = Plan::new(options);
    match options.json {
        true => Ok(serde_json::to_string_pretty(&plan)? + "\n"),
        false => Ok(render(options, &plan, look)),
    }
}

fn render(options: &CapacityOptions, plan: &Plan, look: Look) -> String {
    let whole = |value: f64| thousands(value.round() as i64);
    let cores = |value: f64| format!("{value:.1} cores");
    let processes = |count: u64| if count == 1 { "1 process".to_owned() } else { format!("{count} processes") };
    let records = [
        ["", "needs", ""].map(str::to_owned),
        ["rows while they arrive".into(), format!("{} a second", whole(plan.rows_per_second)), String::new()],
        ["listeners (`freshet ingest`)".into(), processes(plan.ingest_processes), String::new()],
        ["processors of a domain".into(), processes(plan.processor_processes), String::new()],
        ["partitions of its topic".into(), plan.partitions.to_string(), String::new()],
        ["freshet in all".into(), cores(plan.freshet_cores), String::new()],
        ["Kafka".into(), cores(plan.kafka_cores), format!("{} a second", bytes(plan.kafka_bytes_per_second))],
        [
            "Kafka's disks".into(),
            bytes(plan.kafka_bytes),
            format!("{} days, {} copies", options.kafka_days, options.replicas),
        ],
        [
            "Postgres".into(),
            cores(plan.postgres_cores),
            format!("{} of WAL a second", bytes(plan.postgres_log_bytes_per_second)),
        ],
        [
            "Postgres' disks".into(),
            bytes(plan.postgres_bytes),
            format!("{} a day, {} days", bytes(plan.postgres_bytes_per_day), options.table_days),
        ],
    ];
    let records: Vec<Vec<String>> = records.into_iter().map(Vec::from).collect();
    let mut text = table(look, &records, 1);
    text.push('\n');
    let mut note = |said: &str| {
        let _ = writeln!(text, "{}", look.faint(said));
    };
    note(&format!("Planned for cores that are {} % busy, and rows that are all of one domain.", options.busy));
    if plan.ingest_processes == 1 || plan.processor_processes == 1 {
        note("Where one process is enough, run two: if one is lost, the other takes over within about 10 seconds.");
    }
    if plan.partition_tables {
        note("The table is too large to be handled as one: partition it by date (docs/scaling.md).");
    }
    if plan.databases > 1 {
        note(&format!(
            "One Postgres does not write that much: share the rows by {} databases, each with topics",
            plan.databases
        ));
        note("and processors of its own (docs/scaling.md).");
    }
    text
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let digits = usize::from(value < 100.0 && unit > 0);
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: RowCost = RowCost {
        ingest_us: 2.0,
        process_us: 4.0,
        metrics_us: 0.0,
        postgres_us: 6.0,
        kafka_us: 1.0,
        topic_share: 0.5,
        table_overhead: 140.0,
        log_overhead: 100.0,
    };

    fn options(rows_per_day: u64) -> CapacityOptions {
        CapacityOptions {
            rows_per_day,
            row_bytes: 60,
            hours: 24,
            kafka_days: 7,
            replicas: 3,
            table_days: 10,
            busy: 60,
            json: false,
            cost: COST,
        }
    }

    #[test]
    fn a_small_load_needs_one_process_of_each() {
        let plan = Plan::new(&options(1_000));
        assert_eq!((plan.ingest_processes, plan.processor_processes, plan.partitions), (1, 1, 12));
        assert_eq!((plan.databases, plan.partition_tables), (1, false));
        assert_eq!(plan.postgres_bytes, 1_000.0 * 200.0 * 10.0);
    }

    #[test]
    fn what_a_large_load_needs_follows_from_the_cost_of_a_row() {
        // 8.64 billion rows a day are 100,000 a second.
        let large = Plan::new(&options(8_640_000_000));
        assert_eq!(large.rows_per_second, 100_000.0);
        let cores = [large.freshet_cores, large.kafka_cores, large.postgres_cores];
        let expected = [6.0, 3.0, 6.0].map(|microseconds: f64| 0.1 * microseconds / 0.6);
        assert!(cores.iter().zip(expected).all(|(found, wanted)| (found - wanted).abs() < 1e-9), "{cores:?}");
        assert_eq!((large.ingest_processes, large.processor_processes, large.partitions), (1, 1, 12));
        assert_eq!(large.kafka_bytes_per_second, 100_000.0 * 60.0 * 0.5 * 3.0);
        assert_eq!(large.postgres_log_bytes_per_second, 100_000.0 * 160.0);
        assert!(large.partition_tables, "{} bytes", large.postgres_bytes);
        // In one hour of the day: twenty-four times the cores.
        let hurried = Plan::new(&CapacityOptions { hours: 1, ..options(8_640_000_000) });
        assert!((hurried.postgres_cores / large.postgres_cores - 24.0).abs() < 1e-9);
        assert_eq!((hurried.processor_processes, hurried.partitions, hurried.databases), (16, 32, 1));
        let uneven = Plan::new(&CapacityOptions { hours: 1, ..options(2_600_000_000) });
        assert_eq!((uneven.processor_processes, uneven.partitions), (5, 15), "three for each");
        // Where Postgres works ten times as much as they do, a processor for each two of its cores.
        let cost = RowCost { postgres_us: 40.0, ..COST };
        let slow = Plan::new(&CapacityOptions { hours: 1, cost, ..options(864_000_000) });
        assert_eq!((slow.postgres_cores.round(), slow.processor_processes), (16.0, 8));
        assert_eq!(Plan::new(&options(864_000_000_000)).databases, 2);
    }

    #[test]
    fn the_plan_is_said_in_lines_that_fit() {
        let options = options(864_000_000_000);
        let text = render(&options, &Plan::new(&options), Look::PLAIN);
        for part in ["10,000,000 a second", "67 processes", "2 databases", "partition it by date"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        println!("{text}");
    }

    #[test]
    fn no_fewer_partitions_are_planned_than_setup_would_make() {
        let default: toml::Table = crate::config::DEFAULT.parse().expect("default.toml");
        assert_eq!(default["kafka"]["partitions"].as_integer(), Some(PARTITIONS_MIN.cast_signed()));
    }

    #[test]
    fn bytes_read_well() {
        for (count, text) in
            [(0.0, "0 B"), (1_023.0, "1023 B"), (1_536.0, "1.5 KiB"), (250.0 * 1024.0 * 1024.0, "250 MiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }
}
