//! Logs, and traces if the environment asks for them.

mod otlp;
mod repeats;
mod statements;

use std::io;

use anyhow::Context;
use freshet_topics::trace::TARGET;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub use otlp::trace_id;
use repeats::WithoutRepeats;
use statements::ShortStatements;

/// What is logged unless `RUST_LOG` says otherwise: librdkafka's notices of every rebalance are of use only when one looks
/// for them.
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
            tracing::warn!(%error, "cannot send the last traces");
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
    let traces = match runtime {
        Some(runtime) if otlp::is_wanted() => Some(otlp::provider(runtime.clone()).context("start tracing")?),
        _ => None,
    };
    let of_traces = format!("{TARGET}={}", if traces.is_some() { "info" } else { "off" });
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    let wanted = wanted.add_directive(of_traces.parse().context("name the source of the traces")?);
    let ansi = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    // Where nobody reads standard error any more, a line that cannot be written must not end the process.
    let logs = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let logs = match format {
        LogFormat::Text => logs.with_ansi(ansi).with_target(false).map_event_format(quietly).boxed(),
        LogFormat::Json => logs.json().with_current_span(false).with_span_list(false).map_event_format(quietly).boxed(),
    };
    // One filter for all, and none a layer: those keep on the thread what they were last asked. Whoever only asks
    // whether something is logged, as rdkafka does for each new client, would then silence the thread's next event.
    let stages = traces.as_ref().map(otlp::Stages::new);
    // Tests start several roles in one process: the first one wins.
    let _ = tracing_subscriber::registry().with(logs).with(stages).with(wanted).try_init();
    Ok(Telemetry { traces })
}

/// A way to format events, for those that a log needs.
fn quietly<F>(format: F) -> NotTraces<WithoutRepeats<ShortStatements<F>>> {
    NotTraces(WithoutRepeats::new(ShortStatements(format)))
}

/// Leaves out trace events: the log has them in other words.
struct NotTraces<F>(F);

impl<S, N, F> FormatEvent<S, N> for NotTraces<F>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        match event.metadata().target() {
            TARGET => Ok(()),
            _ => self.0.format_event(context, writer, event),
        }
    }
}
