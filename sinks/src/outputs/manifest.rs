//! The contents of a version of the outputs, and the state of the tables that it was derived from.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

/// The formats in which every file exists; also the file name extensions.
pub const FORMATS: [&str; 3] = ["csv", "json", "parquet"];

/// The object that says which manifest is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The version of the manifest.
    pub version: u64,
    /// Its key.
    pub manifest: String,
    /// The SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}

/// One version of the outputs: all its files, and the state of the tables that they were derived from.
///
/// It contains no time: publishing the same state twice gives the same bytes.
///
/// A new field needs `#[serde(default)]`, so that earlier manifests can still be read, and a higher code version, so
/// that no publisher that does not know the field publishes without it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1, 2, 3, …: higher than every version that was ever published, even if the pointer or manifests were deleted.
    pub version: u64,
    /// The version of the program's own part: how rows become files, and what a manifest contains. 1 in manifests of
    /// version 0.1, whose formulas were part of the program.
    pub code_version: u32,
    /// Output → how it was derived; only outputs that were ever derived. Empty in manifests of earlier versions.
    #[serde(default)]
    pub outputs: BTreeMap<String, Derived>,
    /// The lives of the ledger of the tables, oldest first ([`crate::lives`]): epochs and bookmarks can be compared
    /// within one life only. Empty in manifests of earlier versions.
    #[serde(default)]
    pub lives: Vec<String>,
    /// Domain → epoch of its stream; bookmarks of a domain can be compared within one epoch only.
    pub epochs: BTreeMap<String, i64>,
    /// Domain → partition → the next offset: the rows that the tables had.
    pub bookmarks: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Domain → watermark; a domain without rows has none.
    pub watermarks: BTreeMap<String, NaiveDate>,
    /// Output → the version in which one of its files last changed; its whole-file copies carry that version.
    pub changed: BTreeMap<String, u64>,
    /// The files, by output, kind of window (the shortest first) and start.
    pub windows: Vec<WindowFiles>,
}

/// How an output was derived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derived {
    /// The SHA-256 of the output's definition.
    pub definition: String,
    /// Its columns in order, each with the name of its type.
    pub columns: Vec<(String, String)>,
    /// Whether its query failed when this version was published: then its files are from an earlier state of the
    /// tables.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stale: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The files of one output and window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowFiles {
    /// `current_health_risks`, `window_metrics`, …
    pub output: String,
    /// `day`, `week`, `month`, `year` or `all`.
    pub window_kind: String,
    /// First day of the window.
    pub window_start: NaiveDate,
    /// Rows in each of the files; a window without rows has no files.
    pub rows: u64,
    /// Whether the window is closed; only for outputs with that column.
    #[serde(rename = "final", default, skip_serializing_if = "Option::is_none")]
    pub is_final: Option<bool>,
    /// Format (`csv`, `json`, `parquet`) → file.
    pub files: BTreeMap<String, FileRef>,
}

/// One data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its key, which contains its output and window, the version that first named it, and a part of its hash.
    pub key: String,
    /// The SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Manifest {
    /// Why the tables are older than this manifest, if they are: then Postgres was restored to an older state, and
    /// publishing would take readers back in time.
    ///
    /// | domain in the tables | verdict |
    /// |---|---|
    /// | gone | behind |
    /// | epoch lower | behind |
    /// | epoch higher (adopt, restore, shadow swap) | not behind, whatever the offsets |
    /// | same epoch, each partition at or past the published offset | not behind |
    /// | same epoch, a partition gone or before the published offset | behind |
    /// | not in the manifest | not behind |
    pub fn behind(
        &self,
        epochs: &BTreeMap<String, i64>,
        bookmarks: &BTreeMap<String, BTreeMap<i32, i64>>,
    ) -> Option<String> {
        for (domain, published_epoch) in &self.epochs {
            match epochs.get(domain) {
                None => return Some(format!("domain {domain} has no stream, though it was published")),
                Some(epoch) if epoch < published_epoch => {
                    return Some(format!("domain {domain} is at epoch {epoch}, published is {published_epoch}"));
                }
                Some(epoch) if epoch > published_epoch => continue,
                Some(_) => {}
            }
            for (partition, published) in self.bookmarks.get(domain).into_iter().flatten() {
                let now = bookmarks.get(domain).and_then(|offsets| offsets.get(partition)).copied().unwrap_or(-1);
                if now < *published {
                    return Some(format!(
                        "domain {domain} partition {partition} is at offset {now}, published is {published}"
                    ));
                }
            }
        }
        None
    }

    /// The keys of all data files.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.windows.iter().flat_map(|window| window.files.values()).map(|file| file.key.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(epochs: &[(&str, i64)]) -> BTreeMap<String, i64> {
        epochs.iter().map(|(domain, epoch)| ((*domain).to_owned(), *epoch)).collect()
    }

    fn offsets(offsets: &[(&str, &[i64])]) -> BTreeMap<String, BTreeMap<i32, i64>> {
        let each = |values: &[i64]| (0..).zip(values.iter().copied()).collect();
        offsets.iter().map(|(domain, values)| ((*domain).to_owned(), each(values))).collect()
    }

    type Case<'a> = (&'a str, &'a [(&'a str, i64)], &'a [(&'a str, &'a [i64])], bool);

    #[test]
    fn a_restored_database_is_behind_and_an_adopted_stream_is_not() {
        let published = Manifest {
            epochs: epochs(&[("health", 2), ("climate", 1)]),
            bookmarks: offsets(&[("health", &[5, 7]), ("climate", &[3])]),
            ..Manifest::default()
        };
        let cases: &[Case] = &[
            ("equal", &[("health", 2), ("climate", 1)], &[("health", &[5, 7]), ("climate", &[3])], false),
            ("ahead", &[("health", 2), ("climate", 1)], &[("health", &[5, 8]), ("climate", &[3])], false),
            ("one partition behind", &[("health", 2), ("climate", 1)], &[("health", &[9, 6]), ("climate", &[9])], true),
            ("partition gone", &[("health", 2), ("climate", 1)], &[("health", &[9]), ("climate", &[9])], true),
            ("adopted", &[("health", 3), ("climate", 1)], &[("health", &[0]), ("climate", &[3])], false),
            ("epoch back", &[("health", 1), ("climate", 1)], &[("health", &[9, 9]), ("climate", &[9])], true),
            ("domain gone", &[("health", 2)], &[("health", &[9, 9])], true),
            (
                "domain new",
                &[("health", 2), ("climate", 1), ("pharmacy", 1)],
                &[("health", &[5, 7]), ("climate", &[3]), ("pharmacy", &[0])],
                false,
            ),
        ];
        for (name, now_epochs, now_offsets, behind) in cases {
            let verdict = published.behind(&epochs(now_epochs), &offsets(now_offsets));
            assert_eq!(verdict.is_some(), *behind, "{name}: {verdict:?}");
        }
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let file = FileRef { key: "metrics/data/x".into(), sha256: "00".into(), bytes: 1 };
        let manifest = Manifest {
            version: 3,
            epochs: epochs(&[("health", 2)]),
            bookmarks: offsets(&[("health", &[5, 7])]),
            watermarks: BTreeMap::from([("health".to_owned(), NaiveDate::default())]),
            windows: vec![WindowFiles {
                output: "window_metrics".into(),
                window_kind: "week".into(),
                window_start: NaiveDate::default(),
                rows: 1,
                is_final: Some(true),
                files: BTreeMap::from([("csv".to_owned(), file)]),
            }],
            ..Manifest::default()
        };
        let text = serde_json::to_string(&manifest).expect("json");
        assert!(text.contains(r#""bookmarks":{"health":{"0":5,"1":7}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Manifest>(&text).expect("a manifest"), manifest);
    }

    #[test]
    fn a_manifest_of_an_older_or_a_later_program_reads() {
        let of_0_1 = r#"{"version":12,"code_version":1,"epochs":{"health":1},"bookmarks":{"health":{"0":5}},
            "watermarks":{"health":"2025-08-22"},"changed":{"window_metrics":12},"windows":[{"output":"window_metrics",
            "window_kind":"week","window_start":"2025-08-18","rows":2,"final":false,"files":{"csv":{
            "key":"metrics/data/window_metrics/week-2025-08-18-0123456789abcdef.csv","sha256":"0123","bytes":7}}}]}"#;
        let manifest: Manifest = serde_json::from_str(of_0_1).expect("a manifest");
        assert_eq!((manifest.version, manifest.windows[0].files["csv"].bytes), (12, 7));
        let later = of_0_1.replacen('{', r#"{"a_field_of_later":[1],"#, 1);
        assert_eq!(serde_json::from_str::<Manifest>(&later).expect("a manifest"), manifest);
    }
}
