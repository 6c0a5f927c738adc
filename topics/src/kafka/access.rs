//! What all Kafka clients share while they run: the context that gets their tokens and receives errors from Kafka, and
//! the messages made from these errors.
//!
//! librdkafka asks for a token, and reports a refused login, through events that it queues until the client is polled.
//! Producers poll on their own thread, and consumers of a group poll all the time; a consumer for queries is polled by
//! [`poll_events`] before each query, and an admin client, which nothing polls, gets its token when it is created.

use std::error::Error;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::FutureProducer;

use super::KafkaSettings;
use super::token::Tokens;

/// How often a consumer that waits for an answer checks whether Kafka has refused it meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// One poll handles the queued events, up to the first error.
const SERVE_FOR: Duration = Duration::from_millis(1);
/// The most errors received before one query.
const EVENTS_MAX: usize = 100;

/// The context of a client, or a part of it.
#[derive(Clone)]
pub struct Access {
    tokens: Option<Tokens>,
    /// The last error from Kafka, as text for people.
    complaint: Arc<Mutex<Option<String>>>,
    /// A possible cause if no broker answers.
    guess: Arc<Mutex<Option<&'static str>>>,
}

/// A consumer for queries only: in no group, without side effects.
pub type MetadataClient = BaseConsumer<Access>;

impl Access {
    /// The context for one client.
    pub fn new(settings: &KafkaSettings) -> Self {
        Access { tokens: Tokens::of(settings), complaint: Arc::default(), guess: Arc::default() }
    }

    /// Takes the reason why Kafka refuses this client, if it gave one; the reason is then forgotten.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Access {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// A broker that closes the connection is only logged: it may be restarting.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if message.contains("Disconnected") && message.contains("APIVERSION_QUERY") {
            let guess = "it closes the connection immediately: check kafka.security_protocol";
            *self.guess.lock().unwrap_or_else(PoisonError::into_inner) = Some(guess);
        }
        match level {
            // A connection that ends during a login: librdkafka reconnects and reports nothing about the login.
            _ if message.contains("SASL") && message.contains("Broker transport failure") => {
                tracing::warn!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
            _ => tracing::error!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        let code = error.rdkafka_error_code();
        if let Some(complaint) = code.and_then(|code| explain(code, reason)) {
            *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(complaint);
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        match &self.tokens {
            Some(tokens) => Ok(tokens.fresh()?),
            None => Err("kafka.oauth_token_url or kafka.oauth_token_file is not set".into()),
        }
    }
}

impl ConsumerContext for Access {}

/// Creates a consumer for queries only.
///
/// # Errors
/// If a certificate cannot be read, or librdkafka refuses the configuration.
pub fn metadata_client(settings: &KafkaSettings) -> Result<MetadataClient, KafkaError> {
    metadata_client_with(settings, &[])
}

/// Creates a consumer for queries only, with librdkafka properties that take precedence over the usual ones.
///
/// # Errors
/// If a certificate cannot be read, or librdkafka refuses the configuration.
pub fn metadata_client_with(
    settings: &KafkaSettings,
    properties: &[(&str, &str)],
) -> Result<MetadataClient, KafkaError> {
    settings.check_files().map_err(KafkaError::ClientCreation)?;
    let mut config = settings.client_config();
    config
        // Nobody joins it, but librdkafka looks for its coordinator: one permission covers it and the domains' groups.
        .set("group.id", format!("{}ask", settings.group_prefix))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("queued.max.messages.kbytes", "1024")
        // A query reads a single record: do not wait for more of them, and fetch little else.
        .set("fetch.wait.max.ms", "10")
        .set("max.partition.fetch.bytes", "65536")
        // Logs are filtered later; here all are received.
        .set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in properties {
        config.set(*name, *value);
    }
    let consumer = config.create_with_context(Access::new(settings))?;
    poll_events(&consumer);
    Ok(consumer)
}

/// Lets a consumer without an assignment fetch its token, if one is due, and receive errors from Kafka.
pub fn poll_events(consumer: &MetadataClient) {
    for _ in 0..EVENTS_MAX {
        if consumer.poll(SERVE_FOR).is_none() {
            return;
        }
    }
}

/// Waits until any broker answers a consumer; authentication and TLS have worked by then.
///
/// # Errors
/// [`Unreachable`] once Kafka refuses, or when the time is over.
pub fn wait_until_reachable(consumer: &MetadataClient, within: Duration) -> Result<(), Unreachable> {
    let deadline = Instant::now() + within;
    loop {
        poll_events(consumer);
        if let Some(reason) = consumer.context().complaint() {
            return Err(Unreachable::Refused(reason));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let guess = consumer.context().guess.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(guess.map_or(Unreachable::Silent(within), |guess| Unreachable::Refused(guess.into())));
        }
        // Asks for the cluster and its controller, but for no topic.
        if consumer.client().fetch_cluster_id(left.min(LOOK_EVERY)).is_some() {
            return Ok(());
        }
    }
}

/// Why no broker answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Kafka refuses, or an address cannot be used; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// No broker answers.
    #[error("no broker answers within {0:?}")]
    Silent(Duration),
}

/// Creates an admin client that can log in while its first token is valid: for minutes. Blocks until it has the token.
///
/// # Errors
/// If librdkafka refuses the configuration.
pub(crate) fn admin(settings: &KafkaSettings) -> Result<AdminClient<Access>, KafkaError> {
    let access = Access::new(settings);
    let admin = AdminClient::from_config_and_context(&settings.client_config(), access.clone())?;
    if let Some(tokens) = &access.tokens {
        match tokens.fresh() {
            Ok(token) => give_token(&admin, token),
            Err(error) => tracing::warn!(%error, "cannot get a token for Kafka"),
        }
    }
    Ok(admin)
}

/// Creates a producer for a few records.
///
/// # Errors
/// If librdkafka refuses the configuration.
pub(crate) fn producer(settings: &KafkaSettings, config: &ClientConfig) -> Result<FutureProducer<Access>, KafkaError> {
    config.create_with_context(Access::new(settings))
}

/// Gives a token to a client that nothing polls for events.
#[allow(unsafe_code)]
fn give_token(admin: &AdminClient<Access>, token: OAuthToken) {
    const MESSAGE_BYTES: usize = 512;
    let (Ok(value), Ok(principal)) = (CString::new(token.token), CString::new(token.principal_name)) else {
        tracing::warn!("the token for Kafka contains a NUL byte");
        return;
    };
    let mut message = [0; MESSAGE_BYTES];
    // SAFETY: the client lives as long as `admin`; librdkafka copies the two strings, gets no extensions, and writes at
    // most the given number of bytes of a message.
    let code = unsafe {
        rdkafka::bindings::rd_kafka_oauthbearer_set_token(
            admin.inner().native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            message.as_mut_ptr(),
            MESSAGE_BYTES,
        )
    };
    if code != rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        tracing::warn!(?code, "librdkafka refuses the token for Kafka");
    }
}

/// What is wrong and what to do about it; `None` for errors that only say that no broker was reached.
///
/// | librdkafka says | told |
/// |---|---|
/// | SSL, certificate verify failed | the certificate is not trusted, or for another host name |
/// | SSL, otherwise | TLS fails |
/// | authentication, of a token | no token |
/// | authentication, otherwise | Kafka refuses the login |
/// | transport, an alert of TLS | the client's certificate is not taken |
/// | transport, with a guess about the protocol | the other side speaks another protocol |
/// | resolve | the host name is not known |
/// | all brokers down, other transport errors | nothing: brokers come and go |
fn explain(code: RDKafkaErrorCode, reason: &str) -> Option<String> {
    let said = brief(reason);
    match code {
        RDKafkaErrorCode::SSL if reason.contains("certificate verify failed") => Some(format!(
            "its certificate is not signed by a CA of kafka.ssl_ca_location (empty: the system's), or is for another \
             host name than the one in kafka.brokers ({said})"
        )),
        RDKafkaErrorCode::SSL => Some(format!("TLS fails: check kafka.security_protocol and kafka.ssl_* ({said})")),
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed
            if reason.contains("OAUTHBEARER token") =>
        {
            Some(format!("no token: check kafka.oauth_* and kafka.sasl_mechanism ({said})"))
        }
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::UnsupportedSASLMechanism => Some(format!(
            "it refuses the login: check kafka.sasl_mechanism, and the user and password or the client and secret \
             ({said})"
        )),
        RDKafkaErrorCode::BrokerTransportFailure if reason.contains("SSL alert") || reason.contains("SSL routines") => {
            Some(format!("it refuses the client's certificate: check kafka.ssl_certificate_location ({said})"))
        }
        RDKafkaErrorCode::BrokerTransportFailure
            if reason.contains("security.protocol") || reason.contains("listener?") =>
        {
            Some(format!("it speaks another protocol: check kafka.security_protocol ({said})"))
        }
        RDKafkaErrorCode::Resolve => Some(format!("its host name is not known: check kafka.brokers ({said})")),
        _ => None,
    }
}

/// The reason without the duration, the number of repetitions, and librdkafka's own advice.
fn brief(reason: &str) -> &str {
    let end = [" (after ", ": broker certificate could not"].iter().filter_map(|cut| reason.find(cut)).min();
    reason[..end.unwrap_or(reason.len())].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kafka_refuses_is_told_with_what_to_do() {
        let cases = [
            (
                RDKafkaErrorCode::SSL,
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: …",
                Some("kafka.ssl_ca_location"),
            ),
            (RDKafkaErrorCode::SSL, "SSL handshake failed: wrong version number", Some("kafka.security_protocol")),
            (
                RDKafkaErrorCode::Authentication,
                "SASL authentication error: … (after 3ms in state AUTH_REQ)",
                Some("refuses the login"),
            ),
            (RDKafkaErrorCode::Authentication, "Failed to acquire SASL OAUTHBEARER token: 401", Some("no token")),
            (
                RDKafkaErrorCode::BrokerTransportFailure,
                "Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116",
                Some("kafka.ssl_certificate_location"),
            ),
            (
                RDKafkaErrorCode::BrokerTransportFailure,
                "Disconnected: might be caused by incorrect security.protocol configuration",
                Some("kafka.security_protocol"),
            ),
            (RDKafkaErrorCode::BrokerTransportFailure, "Connect to ipv4#127.0.0.1:1 failed: Connection refused", None),
            (RDKafkaErrorCode::Resolve, "Failed to resolve 'kafka:9092'", Some("kafka.brokers")),
            (RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down", None),
        ];
        for (code, reason, expected) in cases {
            let told = explain(code, reason);
            match (&told, expected) {
                (None, None) => {}
                (Some(told), Some(words)) => assert!(told.contains(words) && !told.contains("after 3ms"), "{told}"),
                _ => panic!("{reason}: {told:?}"),
            }
        }
    }
}
