//! The event queue of a store (SQS): for each message about an object, its key is looked at.
//!
//! A message is deleted when it is settled: the ledger has the objects under its keys, or it needs no action. Until
//! then it is hidden from other listeners for a while and then received again; an unreadable one is received again
//! until the queue moves it to its dead letters. Correctness does not depend on the queue: the listing finds every
//! object even if events are lost, late, repeated or out of order.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, QueueAttributeName as Attribute};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::seen::SeenQueue;
use super::{StoreEvent, read};
use crate::hints::{Look, Looked};
use crate::logged_once::{LoggedOnce, WhenFull};
use crate::settings::EventSettings;
use crate::{IngestError, Listener, metrics};

/// The most messages in one answer of SQS.
const BATCH_MAX: i32 = 10;
/// Longest time that a message stays hidden, in seconds; SQS takes no more than 12 hours in all.
const HIDDEN_S_MAX: u64 = 3_600;

/// A queue to read.
#[derive(Clone, Debug)]
pub struct EventQueue {
    client: Client,
    settings: EventSettings,
}

/// The result for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is deleted: the ledger has its objects.
    Settled,
    /// It is deleted: there is nothing to do for it.
    Other,
    /// It is received again: its objects could not be looked at.
    Left,
    /// It cannot be read; it is received again until the queue moves it to its dead letters.
    Unreadable,
}

impl Fate {
    pub(super) const ALL: [Fate; 4] = [Fate::Settled, Fate::Other, Fate::Left, Fate::Unreadable];

    fn name(self) -> &'static str {
        match self {
            Fate::Settled => "settled",
            Fate::Other => "other",
            Fate::Left => "left",
            Fate::Unreadable => "unreadable",
        }
    }

    fn is_done(self) -> bool {
        matches!(self, Fate::Settled | Fate::Other)
    }
}

impl EventQueue {
    /// The queue in the settings, read through `client`; `None` if none is set. Sends no request yet.
    pub fn new(client: Client, settings: &EventSettings) -> Option<Self> {
        (!settings.queue_url.is_empty()).then(|| EventQueue { client, settings: settings.clone() })
    }

    /// At most ten messages, once there are any or the wait is over. One request.
    async fn receive(&self) -> Result<Vec<Message>, String> {
        let request = self.client.receive_message().queue_url(&self.settings.queue_url);
        let request = request.max_number_of_messages(BATCH_MAX).wait_time_seconds(seconds(self.settings.wait_s));
        let answer = request.visibility_timeout(seconds(self.settings.hidden_s)).send().await;
        answer.map(|it| it.messages.unwrap_or_default()).map_err(|error| DisplayErrorContext(error).to_string())
    }

    /// Deletes messages; one that is not deleted is received again, and is found settled then. One request.
    async fn delete(&self, handles: Vec<String>) -> Result<(), String> {
        let entry = |(at, handle): (usize, String)| {
            DeleteMessageBatchRequestEntry::builder().id(at.to_string()).receipt_handle(handle).build()
        };
        let entries: Result<Vec<_>, _> = handles.into_iter().enumerate().map(entry).collect();
        let entries = entries.map_err(|error| error.to_string())?;
        let request = self.client.delete_message_batch().queue_url(&self.settings.queue_url);
        let answer = request.set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|error| DisplayErrorContext(error).to_string())?;
        match answer.failed().first() {
            Some(failed) => Err(format!("{}: {}", failed.code(), failed.message().unwrap_or_default())),
            None => Ok(()),
        }
    }

    /// Its URL.
    pub(super) fn url(&self) -> &str {
        &self.settings.queue_url
    }

    /// The approximate number of messages that wait, and of those that are taken but not settled; `None` if the
    /// listener may not ask or gets no answer. One request.
    pub(super) async fn messages(&self) -> Option<(i64, i64)> {
        let wanted = [Attribute::ApproximateNumberOfMessages, Attribute::ApproximateNumberOfMessagesNotVisible];
        let request = self.client.get_queue_attributes().queue_url(&self.settings.queue_url);
        let answer = request.set_attribute_names(Some(wanted.to_vec())).send().await.ok()?;
        let attributes = answer.attributes?;
        let [waiting, taken] = wanted.map(|name| attributes.get(&name)?.parse().ok());
        Some((waiting?, taken?))
    }

    /// Keeps a message hidden from other listeners for this long from now on. One request.
    async fn keep(&self, handle: &str, hidden: Duration) -> Result<(), String> {
        let request = self.client.change_message_visibility().queue_url(&self.settings.queue_url);
        let request = request.receipt_handle(handle).visibility_timeout(seconds(hidden.as_secs().min(HIDDEN_S_MAX)));
        request.send().await.map(|_| ()).map_err(|error| DisplayErrorContext(error).to_string())
    }
}

fn seconds(value: u64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Reads the queue until `stop`. A queue that does not answer is retried for ever and does not delay the listings.
pub(crate) async fn run(
    listener: Arc<Listener>,
    queue: EventQueue,
    stop: CancellationToken,
) -> Result<(), IngestError> {
    declare();
    let reader = Reader { listener, queue, logged: LoggedOnce::new(WhenFull::Forget), seen: SeenQueue::default() };
    let receivers = join_all((0..reader.queue.settings.receivers).map(|_| reader.read(&stop)));
    tokio::join!(receivers, reader.seen.keep(&reader.listener, &reader.queue, &stop));
    Ok(())
}

fn declare() {
    for fate in Fate::ALL {
        metrics::EVENT_MESSAGES.with_label_values(&[fate.name()]);
    }
    metrics::EVENT_QUEUE_FAILURES.inc_by(0);
    was_read();
}

/// Called at the start too: a queue that never answers is then recognized by its age.
fn was_read() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::EVENT_QUEUE_READ.set(now.as_secs() as i64);
}

struct Reader {
    listener: Arc<Listener>,
    queue: EventQueue,
    /// Unreadable messages and unknown kinds of events that were logged.
    logged: LoggedOnce,
    /// The counts for `freshet status` and the page, and whether the queue is long.
    seen: SeenQueue,
}

impl Reader {
    async fn read(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while let Some(received) = stop.run_until_cancelled(self.queue.receive()).await {
            match received {
                Ok(messages) => {
                    failures = 0;
                    was_read();
                    self.seen.answered(!messages.is_empty());
                    self.settle(messages, stop).await;
                }
                Err(error) => {
                    failures += 1;
                    metrics::EVENT_QUEUE_FAILURES.inc();
                    self.seen.failed(&error);
                    let pause = self.listener.back_off().after(failures);
                    let (queue, pause_ms) = (&self.queue.settings.queue_url, pause.as_millis() as u64);
                    tracing::warn!(queue, error, failures, pause_ms, "the event queue cannot be read, trying again");
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
    }

    async fn settle(&self, messages: Vec<Message>, stop: &CancellationToken) {
        let fates = join_all(messages.iter().map(|message| self.fate(message, stop))).await;
        for fate in &fates {
            metrics::EVENT_MESSAGES.with_label_values(&[fate.name()]).inc();
            self.seen.became(*fate);
        }
        let done = messages.into_iter().zip(fates).filter(|(_, fate)| fate.is_done());
        let handles: Vec<String> = done.filter_map(|(message, _)| message.receipt_handle).collect();
        if handles.is_empty() {
            return;
        }
        if let Err(error) = self.queue.delete(handles).await {
            metrics::EVENT_QUEUE_FAILURES.inc();
            let queue = &self.queue.settings.queue_url;
            tracing::warn!(
                queue,
                error,
                "settled messages were not deleted from the event queue: they will be received again"
            );
        }
    }

    async fn fate(&self, message: &Message, stop: &CancellationToken) -> Fate {
        let id = message.message_id().unwrap_or_default();
        let events = match read(message.body().unwrap_or_default().as_bytes()) {
            Ok(events) => events,
            Err(error) => {
                if self.logged.first_time(id) {
                    let queue = &self.queue.settings.queue_url;
                    tracing::warn!(queue, message = id, %error, "left a message to the queue's dead letters");
                }
                return Fate::Unreadable;
            }
        };
        let mut objects = Vec::new();
        for event in events {
            match event {
                StoreEvent::Object { bucket, key } => objects.push((bucket, key)),
                StoreEvent::Test => {}
                StoreEvent::Other(kind) => {
                    if self.logged.first_time(&kind) {
                        tracing::info!(kind = kind.escape_debug().to_string(), "events of this kind are ignored");
                    }
                }
            }
        }
        self.fate_of(message.receipt_handle().unwrap_or_default(), &objects, stop).await
    }

    /// Looks at the objects until they are settled. While the ledger does not answer, the message is kept: letting it
    /// go would only use up its receives before it becomes a dead letter.
    async fn fate_of(&self, handle: &str, objects: &[(String, String)], stop: &CancellationToken) -> Fate {
        let mut failures = 0;
        loop {
            let looks = join_all(objects.iter().map(|(bucket, key)| self.look(bucket, key, stop))).await;
            match worst(&looks) {
                Worst::Nothing => return Fate::Other,
                Worst::Looked(Looked::Settled) => return Fate::Settled,
                Worst::Looked(Looked::Unread) => return Fate::Left,
                Worst::Looked(Looked::NoLedger) => {}
            }
            failures += 1;
            let pause = self.listener.back_off().after(failures);
            let hidden = pause + Duration::from_secs(self.queue.settings.hidden_s);
            if self.queue.keep(handle, hidden).await.is_err()
                || stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
            {
                return Fate::Left;
            }
        }
    }

    /// The result of a look at a key; `None` if it belongs to no domain.
    async fn look(&self, bucket: &str, key: &str, stop: &CancellationToken) -> Option<Looked> {
        // Half of the time that it is hidden from others: a message that takes longer is received by them as well.
        let limit = Duration::from_secs(self.queue.settings.hidden_s) / 2;
        match self.listener.hints.look(bucket, key) {
            Look::Unmatched => None,
            Look::Full => Some(Looked::Unread),
            Look::Comes(told) => Some(match stop.run_until_cancelled(tokio::time::timeout(limit, told)).await {
                Some(Ok(Ok(looked))) => looked,
                // It waits for the listing, or its domain or the listener stops: nobody may look any more.
                Some(Ok(Err(_)) | Err(_)) | None => Looked::Unread,
            }),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Worst {
    /// No look was needed.
    Nothing,
    Looked(Looked),
}

/// The worst result: a message is settled once all its objects are.
fn worst(looks: &[Option<Looked>]) -> Worst {
    let looks: Vec<Looked> = looks.iter().flatten().copied().collect();
    for found in [Looked::NoLedger, Looked::Unread, Looked::Settled] {
        if looks.contains(&found) {
            return Worst::Looked(found);
        }
    }
    Worst::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_settled_once_all_its_objects_are() {
        use Looked::{NoLedger, Settled, Unread};
        let cases: [(&[Option<Looked>], Worst); 6] = [
            (&[], Worst::Nothing),
            (&[None, None], Worst::Nothing),
            (&[None, Some(Settled)], Worst::Looked(Settled)),
            (&[Some(Settled), Some(Unread)], Worst::Looked(Unread)),
            (&[Some(Unread), Some(NoLedger)], Worst::Looked(NoLedger)),
            (&[Some(Unread), None], Worst::Looked(Unread)),
        ];
        for (looks, expected) in cases {
            assert_eq!(worst(looks), expected, "{looks:?}");
        }
    }

    #[test]
    fn only_what_needs_nothing_more_is_deleted() {
        let done: Vec<&str> = Fate::ALL.into_iter().filter(|fate| fate.is_done()).map(Fate::name).collect();
        assert_eq!(done, ["settled", "other"]);
    }
}
