//! Traces by OTLP: one per file, from its drop to the publication of the outputs derived from it.
//!
//! The stages come as events of [`freshet_topics::trace`], from several processes. Trace and root span have ids that
//! follow from the object's id ([`trace_id`]), so that each process places its stages in the trace of the file without
//! being told, and a person finds the trace of a row by its `src_object`.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use freshet_topics::trace::{FILE, TARGET};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer;

/// The variables of the OpenTelemetry specification by which traces are asked for.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// A collector that does not answer within this loses the batch; the pipeline does not wait for it.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the environment asks for traces.
pub(super) fn is_wanted() -> bool {
    ENDPOINTS.iter().any(|name| std::env::var(name).is_ok_and(|endpoint| !endpoint.is_empty()))
}

/// The exporter, as the environment describes it: endpoint, headers, service name and batching are the specification's.
///
/// # Errors
/// If the endpoint is not a URL, or the system has no root certificates.
pub(super) fn provider(runtime: Handle) -> anyhow::Result<SdkTracerProvider> {
    let connector = HttpsConnectorBuilder::new().with_native_roots().context("read the system's root certificates")?;
    let connector = connector.https_or_http().enable_http1().build();
    let client = OnRuntime { runtime, client: HyperClient::new(connector, EXPORT_TIMEOUT, None) };
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
    let exporter = exporter.context("read the OTEL_EXPORTER_OTLP_ settings")?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("freshet");
    }
    let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
    Ok(SdkTracerProvider::builder()
        .with_id_generator(Ids)
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

/// The SDK sends from a thread of its own, and hyper needs a runtime: requests run on the process's.
#[derive(Debug)]
struct OnRuntime {
    runtime: Handle,
    client: HyperClient<HttpsConnector<HttpConnector>>,
}

#[async_trait::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// The trace of an object: the first 16 bytes of SHA-256 of `freshet object ID`.
pub fn trace_id(object: i64) -> TraceId {
    let [trace_id, _] = digest(object);
    TraceId::from_bytes(trace_id)
}

/// Its root span: the 8 bytes after that.
fn root_span_id(object: i64) -> SpanId {
    let [_, rest] = digest(object);
    let [a, b, c, d, e, f, g, h, ..] = rest;
    SpanId::from_bytes([a, b, c, d, e, f, g, h])
}

fn digest(object: i64) -> [[u8; 16]; 2] {
    let digest: [u8; 32] = Sha256::digest(format!("freshet object {object}")).into();
    let mut halves = [[0; 16]; 2];
    halves[0].copy_from_slice(&digest[..16]);
    halves[1].copy_from_slice(&digest[16..]);
    halves
}

thread_local! {
    /// The ids of the root span that this thread is about to make.
    static ROOT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Gives root spans the ids that follow from their object, and any other span a random one.
#[derive(Debug)]
struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        ROOT.get().map_or_else(|| RandomIdGenerator::default().new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        ROOT.get().map_or_else(|| RandomIdGenerator::default().new_span_id(), |(_, span)| span)
    }
}

/// Makes spans of the events that tell of stages.
pub(super) struct Stages {
    tracer: SdkTracer,
}

impl Stages {
    pub(super) fn new(provider: &SdkTracerProvider) -> Self {
        Stages { tracer: provider.tracer("freshet") }
    }

    fn record(&self, fields: StageFields) {
        let builder = SpanBuilder::from_name(fields.stage.clone())
            .with_start_time(at(fields.began_us))
            .with_attributes(fields.attributes);
        let (trace, root) = (trace_id(fields.object), root_span_id(fields.object));
        let mut span = if fields.stage == FILE {
            ROOT.set(Some((trace, root)));
            let span = self.tracer.build_with_context(builder, &Context::new());
            ROOT.set(None);
            span
        } else {
            let parent = SpanContext::new(trace, root, TraceFlags::SAMPLED, true, TraceState::default());
            self.tracer.build_with_context(builder, &Context::new().with_remote_span_context(parent))
        };
        span.end_with_timestamp(at(fields.ended_us));
    }
}

fn at(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros.unsigned_abs())
}

impl<S: tracing::Subscriber> Layer<S> for Stages {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        if event.metadata().target() == TARGET {
            let mut fields = StageFields::default();
            event.record(&mut fields);
            fields.attributes.push(KeyValue::new("freshet.object", fields.object));
            self.record(fields);
        }
    }
}

/// The fields of such an event.
#[derive(Default)]
struct StageFields {
    object: i64,
    stage: String,
    began_us: i64,
    ended_us: i64,
    attributes: Vec<KeyValue>,
}

impl Visit for StageFields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "object" => self.object = value,
            "began_us" => self.began_us = value,
            "ended_us" => self.ended_us = value,
            name => self.attributes.push(KeyValue::new(format!("freshet.{name}"), value)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "stage" => value.clone_into(&mut self.stage),
            name => self.attributes.push(KeyValue::new(format!("freshet.{name}"), value.to_owned())),
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_of_a_file_follows_from_its_id() {
        // printf 'freshet object 12' | sha256sum
        let digest = Sha256::digest("freshet object 12");
        assert_eq!(trace_id(12).to_bytes(), digest[..16]);
        assert_eq!(root_span_id(12).to_bytes(), digest[16..24]);
        assert_ne!(trace_id(12), trace_id(13));
    }
}
