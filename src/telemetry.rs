//! Logs, and traces where the environment asks for them.

mod otlp;

use std::io;

use anyhow::Context;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, filter, fmt};

pub use otlp::trace_id;

/// What is logged unless `RUST_LOG` says otherwise: librdkafka's and arroyo's notices of every rebalance are of
/// use only when one looks for them.
const DEFAULT_FILTER: &str = "info,sentry_arroyo=warn,librdkafka=error,rdkafka=error,sqlx=warn,aws=warn,hyper=warn";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, with `timestamp`, `level`, `fields.message` and the fields of the event.
    Json,
}

/// What has to be sent off before the process ends.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is left. Blocks, for some seconds at most; the runtime must still run.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "send the last traces");
        }
    }
}

/// Starts logging to standard error, and tracing on `runtime` if there is one and `OTEL_EXPORTER_OTLP_ENDPOINT` is
/// set. A second call changes nothing.
///
/// # Errors
/// If traces are asked for in a way that cannot work.
pub fn init(quiet: bool, format: LogFormat, runtime: Option<&Handle>) -> anyhow::Result<Telemetry> {
    let fallback = if quiet { "error,librdkafka=off,rdkafka=off" } else { DEFAULT_FILTER };
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    // What is told for traces is in the log in other words. Dynamic, so that every event is asked about: rdkafka asks
    // whether a level is enabled and logs nothing, and that answer would be taken for the next event's.
    let not_traces = filter::dynamic_filter_fn(|metadata, _| metadata.target() != freshet_topics::trace::TARGET);
    let ansi = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let logs = fmt::layer().with_writer(io::stderr);
    let logs = match format {
        LogFormat::Text => logs.with_ansi(ansi).with_target(false).boxed(),
        LogFormat::Json => logs.json().with_current_span(false).with_span_list(false).boxed(),
    };
    let traces = match runtime {
        Some(runtime) if otlp::is_wanted() => Some(otlp::provider(runtime.clone()).context("start tracing")?),
        _ => None,
    };
    let stages = traces.as_ref().map(|provider| {
        let only_traces = filter::Targets::new().with_target(freshet_topics::trace::TARGET, tracing::Level::INFO);
        otlp::Stages::new(provider).with_filter(only_traces)
    });
    let logs = logs.with_filter(not_traces).with_filter(wanted);
    // Tests start several roles in one process: the first one wins.
    let _ = tracing_subscriber::registry().with(logs).with(stages).try_init();
    Ok(Telemetry { traces })
}
