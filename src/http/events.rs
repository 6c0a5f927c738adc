//! `POST /s3-events`: a store tells that an object came, and the listener looks at once instead of at its next listing.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use freshet_ingest::Hints;

use super::guard::EVENTS;

/// A notification of S3 is some hundred bytes, a batch of them some kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The route of a process that listens to the raw bucket.
pub(super) fn router(hints: Hints) -> Router {
    Router::new().route(EVENTS, post(take)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(hints)
}

/// 202 whether or not a key is anybody's: what is told is a hint, and the listing finds what it misses.
async fn take(State(hints): State<Hints>, body: Bytes) -> (StatusCode, String) {
    match hints.take_notification(&body) {
        Ok(keys) => (StatusCode::ACCEPTED, format!("{keys} to look at\n")),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
