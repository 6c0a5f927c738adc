//! Logs.

use std::io;

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: librdkafka's and arroyo's notices of every rebalance are of
/// use only when one looks for them.
const DEFAULT_FILTER: &str = "info,sentry_arroyo=warn,librdkafka=error,rdkafka=error,sqlx=warn,aws=warn";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, with `timestamp`, `level`, `fields.message` and the fields of the event.
    Json,
}

/// Starts logging to standard error. A second call changes nothing.
pub fn init(quiet: bool, format: LogFormat) {
    let fallback = if quiet { "error,librdkafka=off,rdkafka=off" } else { DEFAULT_FILTER };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    let ansi = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Tests start several roles in one process: the first one wins.
    let _ = match format {
        LogFormat::Text => logs.with_ansi(ansi).with_target(false).try_init(),
        LogFormat::Json => logs.json().with_current_span(false).with_span_list(false).try_init(),
    };
}
