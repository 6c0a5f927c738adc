//! What a role answers over HTTP: `/healthz` and `/metrics`, on loopback unless told otherwise.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `shutdown`; returns the address in use, which differs from the wanted one where its port is 0.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(listen: &str, shutdown: CancellationToken) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on http.listen = {listen} (is the port taken?)"))?;
    let address = listener.local_addr().context("read the address listened on")?;
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/metrics", get(metrics));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await {
            tracing::error!(%error, "serve HTTP");
        }
    });
    Ok(address)
}

async fn metrics() -> impl IntoResponse {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    // Writing to memory fails only for metrics without a name, which cannot be registered.
    if let Err(error) = encoder.encode(&prometheus::gather(), &mut text) {
        tracing::error!(%error, "encode metrics");
    }
    ([(CONTENT_TYPE, encoder.format_type().to_owned())], text)
}
