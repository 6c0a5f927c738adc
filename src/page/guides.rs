//! The guides, as text: those of this very program, also where nothing else can be reached.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

macro_rules! guides {
    ($($name:literal),+ $(,)?) => { [$(($name, include_str!(concat!("../../docs/", $name)))),+] };
}

/// The guides that the page names, by file.
const GUIDES: [(&str, &str); 8] = guides![
    "answers.md",
    "files.md",
    "contracts.md",
    "rejects.md",
    "outputs.md",
    "replay.md",
    "runbook.md",
    "status-page.md"
];

/// `GET /docs/NAME`.
pub(super) async fn guide(Path(name): Path<String>) -> Response {
    match GUIDES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => ([(CONTENT_TYPE, "text/plain; charset=utf-8")], *text).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
