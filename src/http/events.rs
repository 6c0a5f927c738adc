//! `POST /s3-events`: a store announces a new object, and the listener looks at once instead of at its next listing.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use freshet_ingest::Hints;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::guard::EVENTS;

/// A notification of S3 is some hundred bytes, a batch of them some kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The route of a process that listens to the raw bucket.
pub(super) fn router(hints: Hints) -> Router {
    Router::new().route(EVENTS, post(take)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(hints)
}

/// Serves it, and nothing else, on a socket of the local stack's own until `shutdown`: its S3 server tells there.
///
/// # Errors
/// If the socket fails.
pub(crate) async fn serve_own(
    listener: TcpListener,
    token: SecretString,
    hints: Hints,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let expected: Arc<str> = format!("Bearer {}", token.expose_secret()).into();
    let guard = middleware::from_fn_with_state(expected, authorized);
    axum::serve(listener, router(hints).layer(guard)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn authorized(State(expected): State<Arc<str>>, request: Request, next: Next) -> Response {
    match request.headers().get(AUTHORIZATION).is_some_and(|it| it.as_bytes() == expected.as_bytes()) {
        true => next.run(request).await,
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

/// 202 even if no key belongs to a domain: notifications are hints, and the listing finds what they miss.
async fn take(State(hints): State<Hints>, body: Bytes) -> (StatusCode, String) {
    match hints.take_notification(&body) {
        Ok(keys) => (StatusCode::ACCEPTED, format!("{keys} to look at\n")),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
