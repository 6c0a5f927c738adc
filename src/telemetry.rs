//! Logs.

use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: librdkafka's and arroyo's notices of every rebalance are of
/// use only when one looks for them.
const DEFAULT_FILTER: &str = "info,sentry_arroyo=warn,librdkafka=error,rdkafka=error,sqlx=warn,aws=warn";

/// Starts logging to standard error. A second call changes nothing.
pub fn init(quiet: bool) {
    let fallback = if quiet { "error,librdkafka=off,rdkafka=off" } else { DEFAULT_FILTER };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    // Tests start several roles in one process: the first one wins.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_target(false)
        .with_writer(std::io::stderr)
        .try_init();
}
