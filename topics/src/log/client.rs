//! The async side of [`LogReader`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Ends, LogError, LogReader};
use crate::kafka::KafkaSettings;

/// Asks Kafka about logs from async code, each query on a thread that may block. Clones share one client, which is
/// created when it is first needed; several queries at once are fine.
#[derive(Clone)]
pub struct LogClient {
    settings: Arc<KafkaSettings>,
    kept: Arc<Mutex<Option<Arc<LogReader>>>>,
}

impl LogClient {
    /// Connects at the first query.
    pub fn new(settings: &KafkaSettings) -> Self {
        LogClient { settings: Arc::new(settings.clone()), kept: Arc::default() }
    }

    /// Runs a query; it runs to its end even if the caller stops waiting.
    ///
    /// # Errors
    /// [`LogError::Unreachable`] with what to do if Kafka refuses this client; otherwise rdkafka's error.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&LogReader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let client = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let reader = client.reader()?;
            question(&reader).map_err(|error| match reader.refusal() {
                Some(refusal) => LogError::Unreachable(refusal),
                None => error,
            })
        });
        asked.await?
    }

    /// The ends of each partition; empty if the topic does not exist.
    ///
    /// # Errors
    /// As [`LogClient::ask`].
    pub async fn ends(&self, topic: &str) -> Result<BTreeMap<i32, Ends>, LogError> {
        let topic = topic.to_owned();
        self.ask(move |reader| reader.ends(&topic)).await
    }

    fn reader(&self) -> Result<Arc<LogReader>, LogError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(reader) => Ok(Arc::clone(reader)),
            None => {
                let reader = Arc::new(LogReader::new(&self.settings)?);
                Ok(Arc::clone(kept.insert(reader)))
            }
        }
    }
}
