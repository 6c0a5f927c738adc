//! The published outputs, read from S3 only when there is something new.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use chrono::{DateTime, Utc};
use freshet_sinks::outputs::{self, Current, FORMATS, Manifest, Store};
use serde::Serialize;

use super::charts::Charts;
use crate::roles::Services;

/// Copies that are behind are looked at again after this: a dozen requests.
const COPIES_INTERVAL: Duration = Duration::from_secs(2);

/// What is published, as last seen.
pub(super) struct Published {
    s3: Client,
    bucket: String,
    current: Option<Current>,
    at: Option<DateTime<Utc>>,
    copies_behind: Vec<String>,
    copies_asked: Instant,
    charts: Charts,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Shown {
    /// The published version; none before the first.
    pub(super) version: Option<u64>,
    at: Option<DateTime<Utc>>,
    /// Whole-file copies that are not of that version yet.
    pub(super) copies_behind: Vec<String>,
    outputs: Vec<Output>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    name: String,
    rows: u64,
    /// By format: about how large the whole-file copy is.
    bytes: BTreeMap<&'static str, u64>,
}

impl Published {
    pub(super) fn new(services: &Services) -> Published {
        Published {
            s3: services.s3.clone(),
            bucket: services.config.s3.processed_bucket.clone(),
            current: None,
            at: None,
            copies_behind: Vec::new(),
            copies_asked: Instant::now(),
            charts: Charts::of(services.config.pipeline.outputs),
        }
    }

    /// One request if nothing was published since.
    pub(super) async fn look(&mut self) -> Result<()> {
        let store = Store::new(self.s3.clone(), &self.bucket);
        let current = store.current_unless(self.current.as_ref()).await.context("read the published version")?;
        let version = |current: &Option<Current>| current.as_ref().map(|current| current.pointer.clone());
        let changed = version(&current) != version(&self.current);
        if changed {
            let head = self.s3.head_object().bucket(&self.bucket).key(outputs::POINTER).send().await.ok();
            let written = head.and_then(|head| head.last_modified().map(|at| (at.secs(), at.subsec_nanos())));
            self.at = written.and_then(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos));
        }
        if let Some(manifest) = current.as_ref().map(|current| &current.manifest) {
            let again = !self.copies_behind.is_empty() && self.copies_asked.elapsed() > COPIES_INTERVAL;
            if changed || again {
                let behind = outputs::copies_behind(&self.s3, &self.bucket, manifest).await;
                self.copies_behind = behind.context("look at the copies")?;
                self.copies_asked = Instant::now();
            }
        }
        // Only now: what failed half-way is looked at again as a whole.
        self.current = current;
        // They remember themselves what they have read: a file that cannot be read keeps nothing else from the page.
        match &self.current {
            Some(current) => self.charts.look(&store, &current.manifest).await,
            None => Ok(()),
        }
    }

    pub(super) fn shown(&self) -> Shown {
        let manifest = self.current.as_ref().map(|current| &current.manifest);
        Shown {
            version: manifest.map(|manifest| manifest.version),
            at: self.at,
            copies_behind: self.copies_behind.clone(),
            outputs: manifest.map(sizes).unwrap_or_default(),
        }
    }

    /// The charts that outputs ask for.
    pub(super) fn charts(&self) -> &Charts {
        &self.charts
    }
}

fn sizes(manifest: &Manifest) -> Vec<Output> {
    let output = |name: &String| {
        let windows = || manifest.windows.iter().filter(|window| window.output == *name);
        let bytes = FORMATS.map(|format| {
            let files = windows().filter_map(|window| window.files.get(format));
            (format, files.map(|file| file.bytes).sum())
        });
        Output { name: name.clone(), rows: windows().map(|window| window.rows).sum(), bytes: bytes.into() }
    };
    manifest.changed.keys().map(output).collect()
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use freshet_sinks::outputs::{FileRef, WindowFiles};

    use super::*;

    #[test]
    fn an_output_is_as_large_as_its_windows() {
        let window = |output: &str, rows, bytes| WindowFiles {
            output: output.to_owned(),
            window_kind: "month".into(),
            window_start: NaiveDate::default(),
            rows,
            is_final: None,
            files: [("csv".to_owned(), FileRef { key: String::new(), sha256: String::new(), bytes })].into(),
        };
        let manifest = Manifest {
            changed: [("daily_scores".to_owned(), 3), ("totals".to_owned(), 1)].into(),
            windows: vec![window("daily_scores", 2, 70), window("daily_scores", 5, 200), window("totals", 1, 9)],
            ..Manifest::default()
        };
        let sizes = sizes(&manifest);
        assert_eq!((sizes[0].name.as_str(), sizes[0].rows, sizes[0].bytes["csv"]), ("daily_scores", 7, 270));
        assert_eq!((sizes[1].rows, sizes[1].bytes["csv"], sizes[1].bytes["parquet"]), (1, 9, 0));
    }
}
