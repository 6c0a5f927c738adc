//! The HTTP server of a role, on loopback by default: `/healthz`, `/readyz` and `/metrics`, and for a listener
//! [`events`]. [`guard`] checks the token of every request if one is set.

mod events;
mod guard;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) use events::serve_own;
use guard::Guard;
pub(crate) use guard::{EVENTS, UPLOADS, is_from_own_page};

use crate::metrics;
use crate::ready;
use crate::roles::{Role, Services};

/// An answer of `/readyz` holds this long, so that asking costs the services nothing.
const READINESS_AGE_MAX: Duration = Duration::from_secs(1);

struct Served {
    services: Services,
    roles: Vec<Role>,
    /// When readiness was last looked at, and what was missing. Held while looking: askers share one look.
    readiness: Mutex<Option<(Instant, Vec<ready::Missing>)>>,
}

/// Serves until `shutdown` for a process that runs `roles`, and `more` beside it; returns the address in use, which
/// differs from the wanted one where its port is 0.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(
    services: &Services,
    roles: &[Role],
    more: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listen = &services.config.http.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on http.listen = {listen} (is the port taken?)"))?;
    let address = listener.local_addr().context("read the address listened on")?;
    metrics::declare(roles);
    let served = Served { services: services.clone(), roles: roles.to_vec(), readiness: Mutex::default() };
    let guarded = Guard::new(services.config.http.token.expose_secret(), address.ip());
    if let Some(warning) = guarded.warning() {
        tracing::warn!(%address, "{warning}");
    }
    let more = match roles.contains(&Role::Ingest) {
        true => more.merge(events::router(services.hints.clone())),
        false => more,
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(encoded_metrics))
        .with_state(Arc::new(served))
        .merge(more)
        .layer(middleware::from_fn_with_state(guarded, guard::guard));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await {
            tracing::error!(%error, "serve HTTP");
        }
    });
    Ok(address)
}

/// 200, or 503 with a line for each thing that is missing.
async fn readiness(State(served): State<Arc<Served>>) -> (StatusCode, String) {
    let mut known = served.readiness.lock().await;
    let missing = match known.take() {
        Some((at, missing)) if at.elapsed() < READINESS_AGE_MAX => (at, missing),
        _ => {
            let missing = ready::missing(&served.services, &served.roles).await;
            (Instant::now(), missing)
        }
    };
    let (_, missing) = known.insert(missing);
    match missing.as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        missing => {
            let lines = missing.iter().map(|one| format!("{one}\n")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, lines)
        }
    }
}

async fn encoded_metrics(State(served): State<Arc<Served>>) -> impl IntoResponse {
    metrics::observe_pool(&served.services.pool);
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    // Writing to memory fails only for metrics without a name, which cannot be registered.
    if let Err(error) = encoder.encode(&prometheus::gather(), &mut text) {
        tracing::error!(%error, "encode metrics");
    }
    ([(CONTENT_TYPE, encoder.format_type().to_owned())], text)
}
