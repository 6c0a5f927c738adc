//! The configuration of every Kafka client of freshet, and the checks of its settings.
//!
//! [`access`] has what all clients share while they run: tokens and errors from Kafka.

pub mod access;
mod msk;
mod token;

use std::collections::BTreeMap;
use std::fs;

use rdkafka::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::message::packed::PACK_ROWS_MAX;

/// freshet's own mechanism name for OAUTHBEARER with tokens signed by AWS credentials.
const AWS_MSK_IAM: &str = "AWS_MSK_IAM";
/// The mechanisms of librdkafka in this build, and [`AWS_MSK_IAM`].
const MECHANISMS: [&str; 5] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", AWS_MSK_IAM];
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// How often producers and consumers ask which partitions a topic has (`topic.metadata.refresh.interval.ms`), so that added
/// ones are written to and read within this time; the default would be five minutes. One small request each.
pub const METADATA_REFRESH_MS: &str = "10000";

/// Settings of the section `kafka`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// `host:port`, comma separated. Empty: the local stack's own broker.
    pub brokers: String,
    /// The beginning of topic names; the domain's name follows.
    pub topic_prefix: String,
    /// The beginning of consumer group names; the domain's name follows.
    pub group_prefix: String,
    /// Partitions of a topic created by `topics create`.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replication: i32,
    /// `min.insync.replicas` of the topics.
    pub min_insync_replicas: i32,
    /// `retention.ms` of the topics in milliseconds; -1 keeps every row for ever.
    pub retention_ms: i64,
    /// `compression.type` of the producer: lz4, zstd, gzip or none.
    pub compression: String,
    /// The most rows of a file that a listener packs into one message, 1 to 1,000; 1: each row has its own message,
    /// keyed by its location. Default 200.
    pub rows_per_message: usize,
    /// plaintext, ssl, sasl_plaintext or sasl_ssl. Empty: plaintext.
    pub security_protocol: String,
    /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, or AWS_MSK_IAM. Empty: no login.
    pub sasl_mechanism: String,
    /// User of PLAIN and SCRAM.
    pub sasl_username: String,
    /// Its password.
    pub sasl_password: SecretString,
    /// File of the CAs that sign the brokers' certificates (PEM). Empty: the system's.
    pub ssl_ca_location: String,
    /// File of the client's own certificate (PEM), if the brokers require one.
    pub ssl_certificate_location: String,
    /// File of its key (PEM).
    pub ssl_key_location: String,
    /// Passphrase of that key.
    pub ssl_key_password: SecretString,
    /// OAUTHBEARER: endpoint that issues tokens for the client id and secret (OIDC client credentials).
    pub oauth_token_url: String,
    /// The client's id.
    pub oauth_client_id: String,
    /// The client's secret.
    pub oauth_client_secret: SecretString,
    /// The scope to request; empty: none.
    pub oauth_scope: String,
    /// OAUTHBEARER: a file with a token that another program renews (a JWT), read again before it expires.
    pub oauth_token_file: String,
    /// AWS_MSK_IAM: region of the cluster; empty: from the AWS environment or profile.
    pub aws_region: String,
    /// Further librdkafka properties; `_` in a name stands for a dot. They take precedence over the settings above. Any
    /// of them may be a password.
    pub properties: BTreeMap<String, SecretString>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        KafkaSettings {
            brokers: String::new(),
            topic_prefix: "freshet.".into(),
            group_prefix: "freshet.".into(),
            partitions: 12,
            replication: 3,
            min_insync_replicas: 2,
            retention_ms: -1,
            compression: "lz4".into(),
            rows_per_message: 200,
            security_protocol: String::new(),
            sasl_mechanism: String::new(),
            sasl_username: String::new(),
            sasl_password: SecretString::default(),
            ssl_ca_location: String::new(),
            ssl_certificate_location: String::new(),
            ssl_key_location: String::new(),
            ssl_key_password: SecretString::default(),
            oauth_token_url: String::new(),
            oauth_client_id: String::new(),
            oauth_client_secret: SecretString::default(),
            oauth_scope: String::new(),
            oauth_token_file: String::new(),
            aws_region: String::new(),
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaSettings {
    /// The common configuration of producers, consumers and admin clients. A role adds its own properties, and
    /// [`access::Access`] as the context.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", "freshet");
        for (name, value) in self.security_properties() {
            config.set(name, value);
        }
        for (name, value) in &self.properties {
            config.set(property(name), value.expose_secret());
        }
        config
    }

    /// The librdkafka properties of the settings that are not empty.
    fn security_properties(&self) -> BTreeMap<&'static str, &str> {
        let mechanism = match self.uses_msk_iam() {
            true => "OAUTHBEARER",
            false => self.sasl_mechanism.as_str(),
        };
        let mut properties = BTreeMap::from([
            ("security.protocol", self.security_protocol.as_str()),
            ("sasl.mechanism", mechanism),
            ("sasl.username", &self.sasl_username),
            ("sasl.password", self.sasl_password.expose_secret()),
            ("ssl.ca.location", &self.ssl_ca_location),
            ("ssl.certificate.location", &self.ssl_certificate_location),
            ("ssl.key.location", &self.ssl_key_location),
            ("ssl.key.password", self.ssl_key_password.expose_secret()),
            ("sasl.oauthbearer.token.endpoint.url", &self.oauth_token_url),
            ("sasl.oauthbearer.client.id", &self.oauth_client_id),
            ("sasl.oauthbearer.client.secret", self.oauth_client_secret.expose_secret()),
            ("sasl.oauthbearer.scope", &self.oauth_scope),
        ]);
        if !self.oauth_token_url.is_empty() {
            properties.insert("sasl.oauthbearer.method", "oidc");
            // curl is linked statically and does not know where the system's CAs are.
            properties.insert("https.ca.location", "probe");
        }
        properties.retain(|_, value| !value.is_empty());
        properties
    }

    fn uses_msk_iam(&self) -> bool {
        self.sasl_mechanism.eq_ignore_ascii_case(AWS_MSK_IAM)
    }

    /// The first setting that cannot work, and why. Values of security settings are not repeated.
    ///
    /// # Errors
    /// One clear line for the person who wrote the setting.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=PACK_ROWS_MAX).contains(&self.rows_per_message) {
            return Err(format!("kafka.rows_per_message must be between 1 and {PACK_ROWS_MAX}"));
        }
        one_of("kafka.security_protocol", &self.security_protocol, &PROTOCOLS)?;
        one_of("kafka.sasl_mechanism", &self.sasl_mechanism, &MECHANISMS)?;
        let has = |name: &str| self.has_property(name);
        let sasl = self.security_protocol.to_ascii_lowercase().starts_with("sasl_");
        if sasl && !self.logs_in() {
            return Err(format!("kafka.sasl_mechanism is not set: one of {}", MECHANISMS.join(", ")));
        }
        if !self.sasl_mechanism.is_empty() && !sasl && !has("security.protocol") {
            return Err("kafka.sasl_mechanism has no effect without kafka.security_protocol = \"sasl_ssl\" (or \
                        sasl_plaintext)"
                .into());
        }
        let encrypts = ["ssl", "sasl_ssl"].iter().any(|one| self.security_protocol.eq_ignore_ascii_case(one));
        let needs_tls = [
            ("ssl_ca_location", &self.ssl_ca_location),
            ("ssl_certificate_location", &self.ssl_certificate_location),
            ("ssl_key_location", &self.ssl_key_location),
        ];
        if !encrypts && !has("security.protocol") {
            no_effect(needs_tls, "kafka.security_protocol = \"ssl\" or \"sasl_ssl\"")?;
        }
        self.check_login()?;
        if self.ssl_certificate_location.is_empty() != self.ssl_key_location.is_empty() {
            return Err(
                "kafka.ssl_certificate_location and kafka.ssl_key_location go together: set both or neither".into()
            );
        }
        self.check_properties()
    }

    /// Whether a mechanism is named.
    fn logs_in(&self) -> bool {
        let names = ["sasl.mechanism", "sasl.mechanisms"];
        !self.sasl_mechanism.is_empty() || names.iter().any(|name| self.has_property(name))
    }

    fn has_property(&self, wanted: &str) -> bool {
        self.properties.keys().any(|name| property(name) == wanted)
    }

    /// Checks the settings that the mechanism requires.
    fn check_login(&self) -> Result<(), String> {
        if !self.logs_in() {
            let logins = [
                ("sasl_username", &self.sasl_username),
                ("oauth_token_url", &self.oauth_token_url),
                ("oauth_token_file", &self.oauth_token_file),
            ];
            return no_effect(logins, "kafka.sasl_mechanism");
        }
        let has = |property: &str| self.has_property(property);
        let missing = |name: &str, value: &str, property: &str| match value.is_empty() && !has(property) {
            true => Err(format!("kafka.{name} is not set, but kafka.sasl_mechanism requires it")),
            false => Ok(()),
        };
        match self.sasl_mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
                missing("sasl_username", &self.sasl_username, "sasl.username")?;
                missing("sasl_password", self.sasl_password.expose_secret(), "sasl.password")
            }
            "OAUTHBEARER" => match (self.oauth_token_url.as_str(), self.oauth_token_file.as_str()) {
                ("", "") if has("sasl.oauthbearer.method") || has("enable.sasl.oauthbearer.unsecure.jwt") => Ok(()),
                ("", "") => Err("kafka.oauth_token_url or kafka.oauth_token_file is not set: OAUTHBEARER takes its \
                                 token from one of them"
                    .into()),
                (_, "") => {
                    missing("oauth_client_id", &self.oauth_client_id, "sasl.oauthbearer.client.id")?;
                    missing(
                        "oauth_client_secret",
                        self.oauth_client_secret.expose_secret(),
                        "sasl.oauthbearer.client.secret",
                    )
                }
                ("", _) => Ok(()),
                _ => Err("set kafka.oauth_token_url or kafka.oauth_token_file, not both".into()),
            },
            _ => Ok(()),
        }
    }

    /// Checks that the named certificates can be read: librdkafka does not say which one is missing.
    pub(crate) fn check_files(&self) -> Result<(), String> {
        for (name, path) in [
            ("ssl_ca_location", &self.ssl_ca_location),
            ("ssl_certificate_location", &self.ssl_certificate_location),
            ("ssl_key_location", &self.ssl_key_location),
        ] {
            if !path.is_empty() {
                fs::metadata(path).map_err(|error| format!("read kafka.{name}, {path}: {error}"))?;
            }
        }
        Ok(())
    }

    /// librdkafka's own check, which would otherwise fail when the first client is created, and repeat the value.
    fn check_properties(&self) -> Result<(), String> {
        use rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN;
        for (name, value) in &self.properties {
            let mut one = ClientConfig::new();
            let Err(error) = one.set(property(name), value.expose_secret()).create_native_config() else { continue };
            return Err(match error {
                rdkafka::error::KafkaError::ClientConfig(RD_KAFKA_CONF_UNKNOWN, ..) => {
                    format!("kafka.properties.{name}: librdkafka has no such property")
                }
                _ => format!("kafka.properties.{name}: librdkafka refuses its value"),
            });
        }
        Ok(())
    }
}

/// Environment variables cannot contain dots, and no relevant librdkafka property contains an underscore.
fn property(name: &str) -> String {
    name.replace('_', ".")
}

/// An error about the first of these settings that is not empty.
fn no_effect<const N: usize>(settings: [(&str, &String); N], without: &str) -> Result<(), String> {
    match settings.into_iter().find(|(_, value)| !value.is_empty()) {
        Some((name, _)) => Err(format!("kafka.{name} has no effect without {without}")),
        None => Ok(()),
    }
}

fn one_of(name: &str, value: &str, known: &[&str]) -> Result<(), String> {
    match value.is_empty() || known.iter().any(|known| known.eq_ignore_ascii_case(value)) {
        true => Ok(()),
        false => Err(format!("{name} is not one of {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut KafkaSettings);

    fn changed(change: Change) -> KafkaSettings {
        let mut settings = KafkaSettings::default();
        change(&mut settings);
        settings
    }

    fn scram(settings: &mut KafkaSettings) {
        settings.security_protocol = "SASL_SSL".into();
        settings.sasl_mechanism = "scram-sha-512".into();
        settings.sasl_username = "freshet".into();
        settings.sasl_password = "hunter2".into();
    }

    #[test]
    fn what_can_work_passes_and_librdkafka_takes_it() {
        let cases: [Change; 8] = [
            |_| (),
            |it| it.security_protocol = "ssl".into(),
            scram,
            |it| {
                it.security_protocol = "sasl_ssl".into();
                it.sasl_mechanism = "AWS_MSK_IAM".into();
            },
            |it| {
                it.security_protocol = "sasl_ssl".into();
                it.sasl_mechanism = "OAUTHBEARER".into();
                it.oauth_token_url = "https://login.example/token".into();
                (it.oauth_client_id, it.oauth_client_secret) = ("freshet".into(), "hunter2".into());
            },
            |it| {
                it.security_protocol = "sasl_ssl".into();
                it.sasl_mechanism = "OAUTHBEARER".into();
                it.oauth_token_file = "/run/secrets/token".into();
            },
            |it| {
                it.properties.insert("security.protocol".into(), "ssl".into());
                it.ssl_ca_location = "ca.pem".into();
            },
            |it| {
                let names = ["security_protocol", "sasl.mechanism", "sasl_username", "sasl_password"];
                let values = ["SASL_SSL", "PLAIN", "freshet", "hunter2"];
                it.properties = names.map(String::from).into_iter().zip(values.map(SecretString::from)).collect();
            },
        ];
        for change in cases {
            let settings = changed(change);
            assert_eq!(settings.check(), Ok(()), "{settings:?}");
            settings.client_config().create_native_config().unwrap_or_else(|error| panic!("{settings:?}: {error}"));
            assert!(!format!("{settings:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_cannot_work_is_named_and_no_value_is_repeated() {
        let cases: [(Change, &str); 17] = [
            (|it| it.rows_per_message = 0, "kafka.rows_per_message must be between 1 and 1000"),
            (|it| it.rows_per_message = 1_001, "kafka.rows_per_message must be between 1 and 1000"),
            (|it| it.security_protocol = "hunter2".into(), "kafka.security_protocol is not one of plaintext"),
            (|it| it.sasl_mechanism = "GSSAPI".into(), "kafka.sasl_mechanism is not one of PLAIN"),
            (|it| it.security_protocol = "sasl_ssl".into(), "kafka.sasl_mechanism is not set"),
            (|it| it.sasl_mechanism = "PLAIN".into(), "kafka.sasl_mechanism has no effect"),
            (
                |it| {
                    scram(it);
                    it.sasl_password = SecretString::default();
                },
                "kafka.sasl_password is not set",
            ),
            (
                |it| {
                    scram(it);
                    it.sasl_mechanism = "OAUTHBEARER".into();
                },
                "kafka.oauth_token_url or kafka.oauth_token_file",
            ),
            (
                |it| {
                    it.security_protocol = "ssl".into();
                    it.ssl_key_location = "key.pem".into();
                },
                "kafka.ssl_certificate_location and",
            ),
            (|it| it.ssl_ca_location = "hunter2".into(), "kafka.ssl_ca_location has no effect without kafka.security"),
            (
                |it| {
                    scram(it);
                    it.security_protocol = "sasl_plaintext".into();
                    it.ssl_ca_location = "hunter2".into();
                },
                "kafka.ssl_ca_location has no effect",
            ),
            (
                |it| it.ssl_certificate_location = "hunter2".into(),
                "kafka.ssl_certificate_location has no effect without kafka.security_protocol = \"ssl\" or \"sasl_ssl\"",
            ),
            (
                |it| it.sasl_username = "hunter2".into(),
                "kafka.sasl_username has no effect without kafka.sasl_mechanism",
            ),
            (|it| it.oauth_token_url = "hunter2".into(), "kafka.oauth_token_url has no effect"),
            (|it| it.oauth_token_file = "hunter2".into(), "kafka.oauth_token_file has no effect"),
            (
                |it| _ = it.properties.insert("sasl_passwrod".into(), "hunter2".into()),
                "kafka.properties.sasl_passwrod: librdkafka has no such property",
            ),
            (
                |it| _ = it.properties.insert("socket.timeout.ms".into(), "hunter2".into()),
                "kafka.properties.socket.timeout.ms: librdkafka refuses its value",
            ),
        ];
        for (change, expected) in cases {
            let error = changed(change).check().expect_err(expected);
            assert!(error.starts_with(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_property_wins_over_a_setting() {
        let mut settings = changed(scram);
        settings.properties.insert("sasl_username".into(), "other".into());
        assert_eq!(settings.client_config().get("sasl.username"), Some("other"));
        assert_eq!(settings.client_config().get("sasl.mechanism"), Some("scram-sha-512"));
    }
}
