//! The newest risk and resilience of each location, as they are published: read from the output's own files, so that
//! the page computes nothing of its own.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::NaiveDate;
use freshet_sinks::outputs::{FileRef, Manifest, Store};
use serde::{Deserialize, Serialize};

/// The output that holds them, a file a month.
const OUTPUT: &str = "resilience_scores";
/// Months that are looked at, the newest first: on the first of a month not every location has a row in it yet.
const MONTHS: usize = 2;
/// A file that is larger is not read: some hundred thousand rows are more than a chart shows.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Locations that are shown, the least resilient first.
const LOCATIONS: usize = 60;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Score {
    location_id: i64,
    location_name: String,
    date: NaiveDate,
    /// 0 to 100 each; none where something it depends on is unknown.
    overall_risk: Option<f64>,
    resource_score: Option<f64>,
    resilience_score: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Scores {
    /// The files they were read from.
    #[serde(skip)]
    files: Vec<FileRef>,
    /// Whether the files are too large to be read.
    too_large: bool,
    /// Locations that have any.
    locations: usize,
    scores: Vec<Score>,
}

impl Scores {
    /// Reads the newest months' files if they are others than before.
    pub(super) async fn look(&mut self, store: &Store, manifest: &Manifest) -> Result<()> {
        let files = newest(manifest);
        if files == self.files {
            return Ok(());
        }
        let too_large = files.iter().any(|file| file.bytes > FILE_BYTES_MAX);
        let mut rows = Vec::new();
        for file in files.iter().filter(|_| !too_large) {
            let whole = store.fetch(file).await?;
            let mut json = Vec::new();
            whole.read()?.copy(0, whole.len(), &mut json)?;
            // Some tens of milliseconds for the largest.
            let read = tokio::task::spawn_blocking(move || serde_json::from_slice::<Vec<Score>>(&json)).await?;
            rows.extend(read.with_context(|| format!("read {}", file.key))?);
        }
        let mut scores = newest_of_each(rows);
        let locations = scores.len();
        scores.truncate(LOCATIONS);
        *self = Scores { files, too_large, locations, scores };
        Ok(())
    }
}

/// The files of the newest months, as JSON.
fn newest(manifest: &Manifest) -> Vec<FileRef> {
    let mut months: Vec<_> = manifest.windows.iter().filter(|window| window.output == OUTPUT).collect();
    months.sort_by_key(|window| std::cmp::Reverse(window.window_start));
    months.into_iter().take(MONTHS).filter_map(|window| window.files.get("json").cloned()).collect()
}

/// The newest row of each location, the least resilient first, unknown ones last.
fn newest_of_each(rows: Vec<Score>) -> Vec<Score> {
    let mut newest: BTreeMap<i64, Score> = BTreeMap::new();
    for row in rows {
        match newest.get(&row.location_id) {
            Some(known) if known.date >= row.date => {}
            _ => drop(newest.insert(row.location_id, row)),
        }
    }
    let mut scores: Vec<Score> = newest.into_values().collect();
    let resilience = |score: &Score| score.resilience_score.unwrap_or(f64::INFINITY);
    scores.sort_by(|left, right| resilience(left).total_cmp(&resilience(right)));
    scores
}

#[cfg(test)]
mod tests {
    use freshet_sinks::outputs::WindowFiles;

    use super::*;

    #[test]
    fn each_location_stands_once_with_its_newest_row() {
        let json = r#"[
            {"location_id":1,"date":"2025-09-20","location_name":"a","overall_risk":1.0,"resource_score":50.0,"resilience_score":99.5},
            {"location_id":2,"date":"2025-09-21","location_name":"b","overall_risk":null,"resource_score":50.0,"resilience_score":null},
            {"location_id":1,"date":"2025-09-22","location_name":"a","overall_risk":40.0,"resource_score":50.0,"resilience_score":80.0},
            {"location_id":3,"date":"2025-08-31","location_name":"c","overall_risk":90.0,"resource_score":0.0,"resilience_score":10.0}
        ]"#;
        let scores = newest_of_each(serde_json::from_str(json).expect("rows"));
        let shown: Vec<_> = scores.iter().map(|score| (score.location_id, score.resilience_score)).collect();
        assert_eq!(shown, [(3, Some(10.0)), (1, Some(80.0)), (2, None)]);
    }

    #[test]
    fn only_the_newest_months_are_read() {
        let window = |output: &str, month| WindowFiles {
            output: output.to_owned(),
            window_kind: "month".into(),
            window_start: NaiveDate::from_ymd_opt(2025, month, 1).expect("a date"),
            rows: 1,
            is_final: None,
            files: [("json".to_owned(), FileRef { key: month.to_string(), sha256: String::new(), bytes: 1 })].into(),
        };
        let windows = vec![window(OUTPUT, 7), window(OUTPUT, 8), window(OUTPUT, 9), window("window_metrics", 12)];
        let files = newest(&Manifest { windows, ..Manifest::default() });
        assert_eq!(files.iter().map(|file| file.key.as_str()).collect::<Vec<_>>(), ["9", "8"]);
    }
}
