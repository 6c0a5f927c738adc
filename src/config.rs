//! Settings: from the shipped defaults, a file, the environment, the command line, and a live local stack, in this
//! order; later ones win, but the local stack only fills in what nobody has set.
//!
//! Environment variables are spelled `FRESHET__SECTION__KEY`. The names that standard clients use
//! (`DATABASE_URL`, `KAFKA_BROKERS`, `AWS_ENDPOINT_URL_S3`, …) are aliases for what is still empty, so that a
//! shell that has sourced `DATA/env` reaches the same services.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use freshet_ingest::IngestSettings;
use freshet_processors::ProcessSettings;
use freshet_processors::refresh::MetricsSettings;
use freshet_sinks::postgres::PostgresSettings;
use freshet_sinks::s3::S3Settings;
use freshet_topics::DOMAINS;
use freshet_topics::kafka::KafkaSettings;
use serde::Deserialize;

use crate::local;

/// Every setting with its meaning, unit and default.
pub const DEFAULT: &str = include_str!("config/default.toml");
/// What is different on the local stack.
pub const LOCAL: &str = include_str!("config/local.toml");

/// All settings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Kafka.
    pub kafka: KafkaSettings,
    /// Postgres.
    pub postgres: PostgresSettings,
    /// S3.
    pub s3: S3Settings,
    /// The listener.
    pub ingest: IngestSettings,
    /// The processors.
    pub process: ProcessSettings,
    /// The publisher of derived outputs.
    pub metrics: MetricsSettings,
    /// What a role serves.
    pub http: HttpSettings,
}

/// Settings of the section `http`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Address that a role listens on for `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one; empty: none.
    pub listen: String,
    /// Time between two looks at the state of the whole pipeline for `/metrics`, in milliseconds.
    pub survey_interval_ms: u64,
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings { listen: "127.0.0.1:9187".into(), survey_interval_ms: 15_000 }
    }
}

/// Where settings come from besides the shipped defaults and the environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A settings file.
    pub file: Option<PathBuf>,
    /// Settings of the command line as (`section.key`, value): they win over all others.
    pub set: Vec<(String, String)>,
}

/// Reads `section.key=value`, as the command line has it.
///
/// # Errors
/// If the text is nothing like it.
pub fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write it as section.key=value, for example process.batch_rows_max=1000".into()),
    }
}

/// Which defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Real services.
    Production,
    /// The local stack's own.
    Local,
}

/// The settings without any services filled in: defaults, file, environment, command line.
///
/// # Errors
/// One line that names the file or variable and what is wrong with it.
pub fn load(sources: &Sources, base: Base) -> anyhow::Result<Config> {
    load_from(sources, base, config::Environment::with_prefix("FRESHET"))
}

fn load_from(sources: &Sources, base: Base, environment: config::Environment) -> anyhow::Result<Config> {
    let text = |text| config::File::from_str(text, config::FileFormat::Toml);
    let mut builder = config::Config::builder().add_source(text(DEFAULT));
    if base == Base::Local {
        builder = builder.add_source(text(LOCAL));
    }
    if let Some(file) = &sources.file {
        builder = builder.add_source(config::File::from(file.clone()).format(config::FileFormat::Toml));
    }
    builder = builder.add_source(environment.prefix_separator("__").separator("__"));
    for (key, value) in &sources.set {
        builder = builder.set_override(key, value.as_str()).with_context(|| format!("read --set {key}"))?;
    }
    let config: Config = builder
        .build()
        .context("read the settings")?
        .try_deserialize()
        .context("read the settings (they are documented in `freshet check-config --defaults`)")?;
    check(&config)?;
    Ok(config)
}

fn check(config: &Config) -> anyhow::Result<()> {
    let domains: Vec<&str> = DOMAINS.iter().map(|domain| domain.name).collect();
    config.ingest.check(&domains).map_err(anyhow::Error::msg)?;
    anyhow::ensure!(config.process.batch_rows_max > 0, "process.batch_rows_max must be at least 1");
    anyhow::ensure!(config.http.survey_interval_ms >= 100, "http.survey_interval_ms must be at least 100");
    anyhow::ensure!(config.kafka.partitions > 0, "kafka.partitions must be at least 1");
    anyhow::ensure!(
        config.s3.access_key_id.is_empty() == config.s3.secret_access_key.is_empty(),
        "s3.access_key_id and s3.secret_access_key go together: set both or neither"
    );
    Ok(())
}

/// The settings of a command that talks to running services: what is still empty comes from the aliases in the
/// environment, else from a live local stack under `data_dir`.
///
/// # Errors
/// As [`load`], and where a service is neither set nor running here.
pub fn load_connected(sources: &Sources, data_dir: &Path) -> anyhow::Result<Config> {
    let stack: HashMap<String, String> = local::read_env(data_dir).into_iter().flatten().collect();
    let sourced = std::env::var_os("FRESHET_RAW_BUCKET").is_some();
    let base = if stack.is_empty() && !sourced { Base::Production } else { Base::Local };
    let mut config = load(sources, base)?;
    let alias = |name: &str| std::env::var(name).ok().or_else(|| stack.get(name).cloned()).unwrap_or_default();
    fill(&mut config, alias);
    let missing: Vec<&str> = [("kafka.brokers", &config.kafka.brokers), ("postgres.url", &config.postgres.url)]
        .into_iter()
        .filter(|(_, value)| value.is_empty())
        .map(|(name, _)| name)
        .collect();
    anyhow::ensure!(
        missing.is_empty(),
        "{} not set, and no `freshet up` is running on {}: start it, or set FRESHET__{}",
        missing.join(" and "),
        data_dir.display(),
        missing[0].to_uppercase().replace('.', "__")
    );
    Ok(config)
}

/// Fills in what is empty.
pub fn fill(config: &mut Config, alias: impl Fn(&str) -> String) {
    let own_endpoint = config.s3.endpoint.is_empty();
    for (setting, name) in [
        (&mut config.kafka.brokers, "KAFKA_BROKERS"),
        (&mut config.postgres.url, "DATABASE_URL"),
        (&mut config.s3.endpoint, "AWS_ENDPOINT_URL_S3"),
        (&mut config.s3.region, "AWS_REGION"),
    ] {
        if setting.is_empty() {
            *setting = alias(name);
        }
    }
    // A bucket is never empty: its shipped name counts as not set.
    let shipped = S3Settings::default();
    for (setting, shipped, name) in [
        (&mut config.s3.raw_bucket, shipped.raw_bucket, "FRESHET_RAW_BUCKET"),
        (&mut config.s3.processed_bucket, shipped.processed_bucket, "FRESHET_PROCESSED_BUCKET"),
    ] {
        let running = alias(name);
        if *setting == shipped && !running.is_empty() {
            *setting = running;
        }
    }
    // The keys of one store are no use at another.
    if own_endpoint && config.s3.access_key_id.is_empty() {
        config.s3.access_key_id = alias("AWS_ACCESS_KEY_ID");
        config.s3.secret_access_key = alias("AWS_SECRET_ACCESS_KEY");
    }
}

/// The data folder of the local stack, unless `--data` says otherwise.
pub fn default_data_dir() -> PathBuf {
    PathBuf::from(".freshet")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> config::Environment {
        let source = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        config::Environment::with_prefix("FRESHET").source(Some(source))
    }

    fn with_environment(pairs: &[(&str, &str)]) -> anyhow::Result<Config> {
        load_from(&Sources::default(), Base::Production, environment(pairs))
    }

    #[test]
    fn the_shipped_files_say_what_the_code_defaults_to() {
        let shipped = with_environment(&[]).expect("default.toml is valid");
        assert_eq!(format!("{shipped:#?}"), format!("{:#?}", Config::default()));
        load_from(&Sources::default(), Base::Local, environment(&[])).expect("local.toml is valid");
    }

    #[test]
    fn every_setting_is_documented() {
        for (file, text) in [("default.toml", DEFAULT), ("local.toml", LOCAL)] {
            let mut documented = false;
            for line in text.lines() {
                let is_setting = line.contains(" = ");
                assert!(!is_setting || documented || line.starts_with('#'), "{file}: `{line}` has no comment above it");
                documented = line.starts_with('#') || (documented && is_setting);
            }
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_and_unknown_keys_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("settings.toml");
        let load = |text: &str, pairs: &[(&str, &str)]| {
            std::fs::write(&path, text).expect("write the file");
            let sources = Sources { file: Some(path.clone()), set: Vec::new() };
            load_from(&sources, Base::Production, environment(pairs))
        };
        let text = "[process]\nbatch_rows_max = 5\nbatch_age_ms_max = 6\n";
        let variables = [
            ("FRESHET__KAFKA__BROKERS", "kafka:9092"),
            ("FRESHET__PROCESS__BATCH_ROWS_MAX", "7"),
            ("FRESHET__POSTGRES__URL", "postgres://u:12@h/d"),
        ];
        let config = load(text, &variables).expect("valid");
        assert_eq!((config.kafka.brokers.as_str(), config.process.batch_rows_max), ("kafka:9092", 7));
        assert_eq!(config.process.batch_age_ms_max, 6, "the file wins over the defaults");
        for (text, variables, complaint) in [
            ("", &[("FRESHET__KAFKA__BROKER", "x")][..], "`broker`"),
            ("[kafka]\nbroker = 'x'\n", &[], "`broker`"),
            ("[kafkas]\n", &[], "`kafkas`"),
            ("[kafka\n", &[], "settings.toml"),
            ("", &[("FRESHET__PROCESS__BATCH_ROWS_MAX", "0")], "process.batch_rows_max"),
            ("", &[("FRESHET__PROCESS__BATCH_ROWS_MAX", "many")], "batch_rows_max"),
        ] {
            let error = format!("{:#}", load(text, variables).expect_err(complaint));
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let set = ["process.batch_rows_max=9", "kafka.brokers=a:1,b:2", "http.listen="].map(parse_set);
        let sources = Sources { file: None, set: set.into_iter().collect::<Result<_, _>>().expect("well formed") };
        let environment =
            environment(&[("FRESHET__PROCESS__BATCH_ROWS_MAX", "7"), ("FRESHET__KAFKA__PARTITIONS", "5")]);
        let config = load_from(&sources, Base::Production, environment).expect("valid");
        assert_eq!((config.process.batch_rows_max, config.kafka.partitions), (9, 5));
        assert_eq!((config.kafka.brokers.as_str(), config.http.listen.as_str()), ("a:1,b:2", ""));
        for wrong in ["process.batch_rows_max", "batch=1", ""] {
            assert!(parse_set(wrong).is_err(), "{wrong}");
        }
        let unknown = Sources { file: None, set: vec![("process.batch_row_max".into(), "9".into())] };
        let error = load_from(&unknown, Base::Production, self::environment(&[])).expect_err("unknown key");
        assert!(format!("{error:#}").contains("batch_row_max"), "{error:#}");
    }

    #[test]
    fn a_secret_is_in_no_debug_output() {
        let config = with_environment(&[
            ("FRESHET__POSTGRES__URL", "postgres://user:hunter2@host/db"),
            ("FRESHET__S3__ACCESS_KEY_ID", "hunter2"),
            ("FRESHET__S3__SECRET_ACCESS_KEY", "hunter2"),
            ("FRESHET__KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2"),
        ])
        .expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_local_stack_fills_in_only_what_nobody_set() {
        let mut config = Config::default();
        config.postgres.url = "postgres://elsewhere/db".into();
        fill(&mut config, |name| format!("<{name}>"));
        assert_eq!(config.postgres.url, "postgres://elsewhere/db");
        assert_eq!(config.kafka.brokers, "<KAFKA_BROKERS>");
        assert_eq!(config.s3.raw_bucket, "<FRESHET_RAW_BUCKET>");
        assert_eq!(config.s3.access_key_id, "<AWS_ACCESS_KEY_ID>");
        let mut config = Config::default();
        config.s3.endpoint = "http://elsewhere".into();
        fill(&mut config, |name| format!("<{name}>"));
        assert_eq!(config.s3.access_key_id, "", "keys of another store are not sent there");
    }
}
