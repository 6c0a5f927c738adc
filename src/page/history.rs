//! The last minutes of the pipeline, for the charts over time: what the survey saw, kept in a bounded ring.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::survey::Survey;

/// Surveys that are kept: six minutes of the local stack, which surveys every two seconds.
const SURVEYS: usize = 180;

#[derive(Default)]
pub(super) struct History {
    surveys: Mutex<VecDeque<Arc<Survey>>>,
}

/// As the page gets it: a column a number, the oldest first.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Columns {
    /// Unix time in milliseconds.
    at: Vec<i64>,
    /// Ranges of dates and rows of dimensions that changed and are not yet published.
    dirty_windows: Vec<i64>,
    domains: BTreeMap<&'static str, DomainColumns>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct DomainColumns {
    /// Files found since ever.
    files: Vec<i64>,
    /// Rows in the topic since ever.
    published: Vec<i64>,
    /// Rows that a processor is done with since ever: applied, stale or rejected.
    processed: Vec<i64>,
    /// Messages that are not applied.
    lag_messages: Vec<i64>,
    /// Age of the oldest of them in seconds; 0 for none.
    lag_seconds: Vec<f64>,
}

impl History {
    fn push(&self, survey: Arc<Survey>) {
        let mut surveys = self.surveys.lock().unwrap_or_else(PoisonError::into_inner);
        if surveys.len() == SURVEYS {
            surveys.pop_front();
        }
        surveys.push_back(survey);
    }

    pub(super) fn columns(&self) -> Columns {
        let surveys = self.surveys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut columns = Columns::default();
        for survey in surveys.iter() {
            columns.at.push(survey.at.timestamp_millis());
            columns.dirty_windows.push(survey.dirty_windows);
            for seen in &survey.domains {
                let domain = columns.domains.entry(seen.domain).or_default();
                domain.files.push(seen.files);
                domain.published.push(seen.rows.published);
                domain.processed.push(seen.rows.applied + seen.rows.stale + seen.rows.rejected);
                domain.lag_messages.push(seen.lag.messages);
                domain.lag_seconds.push(seen.lag.seconds.unwrap_or(0.0));
            }
        }
        columns
    }
}

/// Takes down every survey until `shutdown`.
pub(super) async fn fill(
    history: Arc<History>,
    mut surveyed: watch::Receiver<Option<Arc<Survey>>>,
    shutdown: CancellationToken,
) {
    while let Some(Ok(())) = shutdown.run_until_cancelled(surveyed.changed()).await {
        let survey = surveyed.borrow_and_update().clone();
        survey.into_iter().for_each(|survey| history.push(survey));
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::status::Rows;
    use crate::survey::{Lag, Surveyed};

    fn survey(second: i64) -> Arc<Survey> {
        let rows = Rows { published: 10 * second, applied: second, stale: 2, rejected: 3, ..Rows::default() };
        let lag = Lag { messages: 5, seconds: (second % 2 == 0).then_some(1.5) };
        let at = DateTime::from_timestamp(second, 0).expect("a time");
        Arc::new(Survey { at, domains: vec![Surveyed { domain: "health", files: 7, rows, lag }], dirty_windows: 9 })
    }

    #[tokio::test]
    async fn the_newest_surveys_are_kept_and_no_more() {
        let history = Arc::new(History::default());
        let (surveyed, seen) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let filling = tokio::spawn(fill(Arc::clone(&history), seen, shutdown.clone()));
        surveyed.send_replace(Some(survey(1)));
        while history.columns().at.is_empty() {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        filling.await.expect("ends with the shutdown");
        assert_eq!(history.columns().at, [1_000]);

        (2..=500).for_each(|second| history.push(survey(second)));
        let columns = history.columns();
        let health = &columns.domains["health"];
        assert_eq!((columns.at.len(), columns.at[0], columns.at[SURVEYS - 1]), (SURVEYS, 321_000, 500_000));
        assert_eq!((health.published.len(), health.published[SURVEYS - 1]), (SURVEYS, 5_000));
        assert_eq!((health.processed[SURVEYS - 1], health.lag_messages[0]), (505, 5));
        assert_eq!((columns.dirty_windows[0], health.files[0]), (9, 7));
        assert_eq!(health.lag_seconds[SURVEYS - 2..], [0.0, 1.5]);
    }
}
