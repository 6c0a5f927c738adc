//! Settings: from the shipped defaults, a file, the environment, the command line, and a live local stack, in this
//! order; later ones win, but the local stack only fills in what is not set.
//!
//! A secret may be named by its file ([`secrets`]). Environment variables are spelled `FRESHET__SECTION__KEY`. The names
//! that standard clients use (`DATABASE_URL`, `KAFKA_BROKERS`, `AWS_ENDPOINT_URL_S3`, …) are aliases for what is still
//! empty, so that a shell that has sourced `DATA/env` reaches the same services.

pub mod secrets;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use freshet_ingest::IngestSettings;
use freshet_processors::refresh::MetricsSettings;
use freshet_processors::{BATCH_ROWS_MAX, ProcessSettings};
use freshet_sinks::postgres::PostgresSettings;
use freshet_sinks::s3::S3Settings;
use freshet_topics::Pipeline;
use freshet_topics::kafka::KafkaSettings;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{local, pipeline};

/// Every setting with its meaning, unit and default.
pub const DEFAULT: &str = include_str!("config/default.toml");
/// What is different on the local stack.
pub const LOCAL: &str = include_str!("config/local.toml");

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The pipeline: not a setting, but the folder of `--pipeline`.
    #[serde(skip, default = "Pipeline::shipped")]
    pub pipeline: &'static Pipeline,
    pub kafka: KafkaSettings,
    pub postgres: PostgresSettings,
    pub s3: S3Settings,
    pub ingest: IngestSettings,
    pub process: ProcessSettings,
    pub metrics: MetricsSettings,
    pub http: HttpSettings,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            pipeline: Pipeline::shipped(),
            kafka: KafkaSettings::default(),
            postgres: PostgresSettings::default(),
            s3: S3Settings::default(),
            ingest: IngestSettings::default(),
            process: ProcessSettings::default(),
            metrics: MetricsSettings::default(),
            http: HttpSettings::default(),
        }
    }
}

/// Settings of the section `http`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Address that a role listens on for `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one; empty: none.
    pub listen: String,
    /// The token that requests need for everything but `/healthz` and `/readyz`. Empty: see [`crate::http`].
    pub token: SecretString,
    /// Whether the status page takes files for the raw bucket without a token.
    pub uploads: bool,
    /// Time between two looks at the state of the whole pipeline for `/metrics`, in milliseconds.
    pub survey_interval_ms: u64,
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            listen: "127.0.0.1:9187".into(),
            token: SecretString::default(),
            uploads: false,
            survey_interval_ms: 15_000,
        }
    }
}

/// Where settings come from besides the shipped defaults and the environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
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

/// A token that can be guessed protects nothing.
const TOKEN_CHARACTERS_MIN: usize = 16;

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
        builder = builder.add_source(config::File::from_str(&settings_file(file)?, config::FileFormat::Toml));
    }
    builder = builder.add_source(environment.prefix_separator("__").separator("__"));
    for (key, value) in &sources.set {
        builder = builder.set_override(key, value.as_str()).with_context(|| format!("read --set {key}"))?;
    }
    let mut settings = builder.build().context("read the settings")?;
    secrets::read(&mut settings.cache)?;
    let mut config: Config = settings
        .try_deserialize()
        .context("read the settings (they are documented in `freshet check-config --defaults`)")?;
    config.pipeline = pipeline::sound()?;
    check(&config)?;
    Ok(config)
}

/// A settings file that is TOML. Errors do not repeat its lines, which may hold a secret.
fn settings_file(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read the settings file {}", path.display()))?;
    if let Err(error) = toml::from_str::<toml::Table>(&text) {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        anyhow::bail!("read the settings file {} line {line}: it is not TOML ({})", path.display(), error.message());
    }
    Ok(text)
}

/// Each writer holds a connection: more of them in one process come to what Postgres accepts, and more processes share
/// the load as well.
const WRITERS_MAX: usize = 16;

fn check(config: &Config) -> anyhow::Result<()> {
    config.ingest.check(config.pipeline.domains).map_err(anyhow::Error::msg)?;
    let rows = config.process.batch_rows_max;
    anyhow::ensure!((1..=BATCH_ROWS_MAX).contains(&rows), "process.batch_rows_max must be 1 to {BATCH_ROWS_MAX}");
    let writers = config.process.writers;
    anyhow::ensure!((1..=WRITERS_MAX).contains(&writers), "process.writers must be 1 to {WRITERS_MAX}");
    config.metrics.check().map_err(anyhow::Error::msg)?;
    anyhow::ensure!(config.http.survey_interval_ms >= 100, "http.survey_interval_ms must be at least 100");
    anyhow::ensure!(config.kafka.partitions > 0, "kafka.partitions must be at least 1");
    config.kafka.check().map_err(anyhow::Error::msg)?;
    freshet_sinks::postgres::check(&config.postgres).map_err(anyhow::Error::msg)?;
    config.s3.check().map_err(anyhow::Error::msg)?;
    let token = config.http.token.expose_secret();
    let can_be_sent = token.bytes().all(|byte| byte.is_ascii_graphic());
    anyhow::ensure!(
        token.is_empty() || (can_be_sent && token.len() >= TOKEN_CHARACTERS_MIN),
        "http.token must be at least {TOKEN_CHARACTERS_MIN} characters of ASCII without spaces (openssl rand -hex 32)"
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
    let missing: Vec<&str> =
        [("kafka.brokers", config.kafka.brokers.as_str()), ("postgres.url", config.postgres.url.expose_secret())]
            .into_iter()
            .filter(|(_, value)| value.is_empty())
            .map(|(name, _)| name)
            .collect();
    let variables = missing.iter().map(|name| format!("FRESHET__{}", name.to_uppercase().replace('.', "__")));
    anyhow::ensure!(
        missing.is_empty(),
        "{} not set, and no `freshet up` is running on {}: start it, name its folder with --data, or set {}",
        missing.join(" and "),
        data_dir.display(),
        variables.collect::<Vec<_>>().join(" and ")
    );
    Ok(config)
}

/// Fills in what is empty.
pub fn fill(config: &mut Config, alias: impl Fn(&str) -> String) {
    let own_endpoint = config.s3.endpoint.is_empty();
    for (setting, name) in [
        (&mut config.kafka.brokers, "KAFKA_BROKERS"),
        (&mut config.s3.endpoint, "AWS_ENDPOINT_URL_S3"),
        (&mut config.s3.region, "AWS_REGION"),
    ] {
        if setting.is_empty() {
            *setting = alias(name);
        }
    }
    if config.postgres.url.expose_secret().is_empty() {
        config.postgres.url = alias("DATABASE_URL").into();
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
    // The keys of one store are no use at another, and temporary ones none without their token: the AWS chain takes
    // both.
    let temporary = !alias("AWS_SESSION_TOKEN").is_empty();
    if own_endpoint && !temporary && config.s3.access_key_id.expose_secret().is_empty() {
        config.s3.access_key_id = alias("AWS_ACCESS_KEY_ID").into();
        config.s3.secret_access_key = alias("AWS_SECRET_ACCESS_KEY").into();
    }
}

/// Where the role of this machine is asked: `http.listen` if it is set, else the `FRESHET_HTTP` of the environment or of
/// a live local stack under `data_dir`, else the shipped `http.listen`.
pub fn listened_on(http: &HttpSettings, data_dir: &Path) -> String {
    let stack =
        || local::read_env(data_dir).into_iter().flatten().find(|(name, _)| name == HTTP).map(|(_, value)| value);
    let known = std::env::var(HTTP).ok().filter(|value| !value.is_empty()).or_else(stack);
    listened(&http.listen, known.as_deref())
}

/// The alias of where the local stack listens.
const HTTP: &str = "FRESHET_HTTP";

/// | `http.listen` | known | asked at |
/// |---|---|---|
/// | set | any | `http.listen` |
/// | as shipped | `http://127.0.0.1:4711` | `127.0.0.1:4711` |
/// | as shipped | – | `http.listen` |
fn listened(listen: &str, known: Option<&str>) -> String {
    match known {
        Some(known) if listen == HttpSettings::default().listen => {
            known.trim_start_matches("http://").trim_end_matches('/').to_owned()
        }
        _ => listen.to_owned(),
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
            ("", &[("FRESHET__PROCESS__BATCH_ROWS_MAX", "1000001")], "must be 1 to 1000000"),
            ("", &[("FRESHET__PROCESS__BATCH_ROWS_MAX", "many")], "batch_rows_max"),
            ("", &[("FRESHET__PROCESS__WRITERS", "0")], "process.writers must be 1 to 16"),
            // Postgres would take it for no limit, and a publication for no time at all.
            ("", &[("FRESHET__METRICS__QUERY_TIMEOUT_S", "0")], "metrics.query_timeout_s must be at least 1"),
            ("[metrics]\nkeep_days = 0\n", &[], "metrics.keep_days must be at least 1"),
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

    const SECRET: &str = "hunter2hunter2hunter2";

    /// A value for each secret that holds [`SECRET`].
    fn with_secrets(suffix: &str, value: impl Fn(&str) -> String) -> Vec<(String, String)> {
        let secret = |(section, key): (&str, &str)| {
            let text = if key == "url" { format!("postgres://user:{SECRET}@host/db") } else { SECRET.to_owned() };
            let name = format!("FRESHET__{}__{}{suffix}", section.to_uppercase(), key.to_uppercase());
            (name, value(&text))
        };
        // The password is either in the URL or beside it.
        let secrets = secrets::SECRETS.into_iter().filter(|(_, key)| *key != "password");
        secrets.map(secret).chain([("FRESHET__KAFKA__PROPERTIES__SASL_PASSWORD".into(), SECRET.into())]).collect()
    }

    #[test]
    fn a_secret_is_in_no_debug_output() {
        let pairs = with_secrets("", str::to_owned);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let config = with_environment(&pairs).expect("valid");
        assert!(!format!("{config:?}").contains(SECRET), "{config:?}");
    }

    #[test]
    fn every_secret_can_be_in_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |text: &str| {
            let path = folder.path().join(format!("{:x}", text.len()));
            fs::write(&path, format!("{text}\n")).expect("write");
            path.display().to_string()
        };
        let pairs = with_secrets("_FILE", file);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let config = with_environment(&pairs).expect("valid");
        let url = format!("postgres://user:{SECRET}@host/db");
        assert_eq!((config.postgres.url.expose_secret(), config.http.token.expose_secret()), (url.as_str(), SECRET));
        for secret in [
            &config.kafka.sasl_password,
            &config.kafka.ssl_key_password,
            &config.kafka.oauth_client_secret,
            &config.s3.access_key_id,
            &config.s3.secret_access_key,
        ] {
            assert_eq!(secret.expose_secret(), SECRET);
        }
        let password = [("FRESHET__POSTGRES__PASSWORD_FILE", file(SECRET))];
        let config = with_environment(&[(password[0].0, &password[0].1)]).expect("valid");
        assert_eq!(config.postgres.password.expose_secret(), SECRET);
    }

    #[test]
    fn a_secret_that_cannot_be_had_is_named_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let (token, empty) = (folder.path().join("token"), folder.path().join("empty"));
        fs::write(&token, SECRET).expect("write");
        fs::write(&empty, "\n").expect("write");
        let (token, empty) = (token.to_str().expect("text"), empty.to_str().expect("text"));
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[("FRESHET__HTTP__TOKEN_FILE", "/nowhere/token")], "read http.token_file = /nowhere/token"),
            (&[("FRESHET__HTTP__TOKEN_FILE", empty)], "it is empty"),
            (&[("FRESHET__HTTP__TOKEN_FILE", token), ("FRESHET__HTTP__TOKEN", SECRET)], "are both set"),
            (&[("FRESHET__HTTP__LISTEN_FILE", token)], "listen_file"),
            (&[("FRESHET__HTTP__TOKEN", "hunter2")], "http.token must be at least"),
        ];
        for (pairs, expected) in cases {
            let error = format!("{:#}", with_environment(pairs).expect_err(expected));
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_toml_is_told_by_its_line_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("freshet.toml");
        fs::write(&file, "[kafka]\nbrokers = \"a:1\"\nsasl_password = \"hunter2\n").expect("write");
        let sources = Sources { file: Some(file), set: vec![] };
        let error = load_from(&sources, Base::Production, environment(&[])).expect_err("not TOML");
        let error = format!("{error:#}");
        assert!(error.contains("freshet.toml line 3: it is not TOML") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_role_is_asked_where_it_was_set_to_listen_else_where_the_environment_says() {
        let shipped = HttpSettings::default().listen;
        let cases = [
            ("10.0.0.1:80", Some("http://127.0.0.1:4711"), "10.0.0.1:80"),
            (shipped.as_str(), Some("http://127.0.0.1:4711/"), "127.0.0.1:4711"),
            (shipped.as_str(), None, shipped.as_str()),
            ("", Some("http://127.0.0.1:4711"), ""),
        ];
        for (listen, known, expected) in cases {
            assert_eq!(listened(listen, known), expected, "{listen} {known:?}");
        }
    }

    #[test]
    fn the_local_stack_fills_in_only_what_nobody_set() {
        let named = |name: &str| if name == "AWS_SESSION_TOKEN" { String::new() } else { format!("<{name}>") };
        let mut config = Config::default();
        config.postgres.url = "postgres://elsewhere/db".into();
        fill(&mut config, named);
        assert_eq!(config.postgres.url.expose_secret(), "postgres://elsewhere/db");
        assert_eq!(config.kafka.brokers, "<KAFKA_BROKERS>");
        assert_eq!(config.s3.raw_bucket, "<FRESHET_RAW_BUCKET>");
        assert_eq!(config.s3.access_key_id.expose_secret(), "<AWS_ACCESS_KEY_ID>");
        let mut config = Config::default();
        config.s3.endpoint = "http://elsewhere".into();
        fill(&mut config, named);
        assert_eq!(config.s3.access_key_id.expose_secret(), "", "keys of another store are not sent there");
        let mut config = Config::default();
        fill(&mut config, |name| format!("<{name}>"));
        let keys = (config.s3.access_key_id.expose_secret(), config.s3.secret_access_key.expose_secret());
        assert_eq!(keys, ("", ""), "temporary keys are left to the chain, with their token");
    }
}
