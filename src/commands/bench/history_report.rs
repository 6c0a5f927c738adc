//! The report of `freshet bench --history`: what was measured, with its target beside it.

use std::time::Duration;

use super::history::{Loaded, Measured};
use crate::commands::terminal::{Look, table, thousands};

/// The middle one of some durations; none is zero.
fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

pub(super) fn render(measured: &Measured, look: Look) -> String {
    let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
    let most = |durations: &[Duration]| seconds(durations.iter().max().copied().unwrap_or_default());
    let rate = |loaded: &Loaded| thousands((measured.rows as f64 / loaded.duration.as_secs_f64()).round() as i64);
    let cost = |loaded: &Loaded| format!("{:.1} µs", loaded.cost.all() * 1e6 / measured.rows as f64);
    let idle = |loaded: &Loaded| format!("{:.0} %", loaded.cost.idle_share() * 100.0);
    let of_a_core = |share: f64| format!("{:.1} %", share * 100.0);
    let share = measured.unknown.duration.as_secs_f64() / measured.known.duration.as_secs_f64();
    let later = measured.published.saturating_sub(measured.known.duration);
    let meanwhile = &measured.corrected_meanwhile;
    let records = [
        ["", "measured", "target"].map(str::to_owned),
        ["one file, locations unknown, rows/s".into(), rate(&measured.unknown), "".into()],
        ["  CPU a row".into(), cost(&measured.unknown), "".into()],
        ["  cores idle meanwhile".into(), idle(&measured.unknown), "≤ 5 %".into()],
        ["one file, locations known, rows/s".into(), rate(&measured.known), "".into()],
        ["  ÷ locations unknown".into(), format!("{:.0} %", share * 100.0), "≥ 90 %".into()],
        ["  published later by".into(), seconds(later), "≤ 10 s".into()],
        ["one row corrected, until published, median".into(), seconds(median(&measured.corrected)), "< 1 s".into()],
        ["  the longest".into(), most(&measured.corrected), "".into()],
        ["one location renamed, until published".into(), seconds(measured.renamed), "< 10 s".into()],
        ["another one, beside corrections".into(), seconds(measured.renamed_beside), "".into()],
        ["  one row corrected meanwhile, median".into(), seconds(median(meanwhile)), "".into()],
        ["  the longest".into(), most(meanwhile), "".into()],
        [
            format!("idle, {} objects: freshet, of a core", thousands(measured.objects as i64)),
            of_a_core(measured.idle.freshet),
            "≤ 2 %".into(),
        ],
        ["  SeaweedFS".into(), of_a_core(measured.idle.store), "≤ 2 %".into()],
        ["  Kafka".into(), of_a_core(measured.idle.kafka), "".into()],
        ["  Postgres".into(), of_a_core(measured.idle.postgres), "".into()],
        ["85 years of one location, until copied".into(), seconds(measured.long_published), "".into()],
        ["  one row corrected, until copied, median".into(), seconds(median(&measured.long_corrected)), "≤ 2 s".into()],
        ["  the longest".into(), most(&measured.long_corrected), "".into()],
    ];
    let notes = [
        format!("{} rows of {} locations, ten years, one file", thousands(measured.rows), measured.locations),
        format!("one location: {} rows; copied: the whole-file copies have the change", thousands(measured.long_rows)),
        "published: from before the file is sent until a manifest with all that it changes is in S3".into(),
    ];
    let notes: Vec<String> = notes.iter().map(|note| look.faint(note)).collect();
    let records: Vec<Vec<String>> = records.into_iter().map(Vec::from).collect();
    format!("{}\n{}", table(look, &records, 1), notes.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::cost::Cost;
    use super::*;

    #[test]
    fn a_report_says_what_a_change_costs() {
        let loaded = |seconds, idle| Loaded {
            duration: Duration::from_secs(seconds),
            cost: Cost { freshet: 20.0, idle, available: 100.0, ..Cost::default() },
        };
        let milliseconds = |values: &[u64]| values.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        let measured = Measured {
            rows: 4_000_000,
            locations: 1_095,
            unknown: loaded(40, 7.0),
            known: loaded(50, 3.0),
            published: Duration::from_secs(58),
            corrected: milliseconds(&[900, 700, 800]),
            renamed: Duration::from_millis(8_440),
            renamed_beside: Duration::from_millis(23_980),
            corrected_meanwhile: milliseconds(&[2_100]),
            objects: 5_150,
            idle: Cost { freshet: 0.012, store: 0.005, ..Cost::default() },
            long_published: Duration::from_secs(61),
            long_corrected: Vec::new(),
            long_rows: 31_000,
        };
        let text = render(&measured, Look::PLAIN);
        for part in [
            "100,000", "80,000", "80 %", "5.0 µs", "7 %", "8.00 s", "0.80 s", "0.90 s", "8.44 s", "23.98 s", "2.10 s",
            "1.2 %",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
