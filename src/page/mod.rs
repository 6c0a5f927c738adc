//! The status page of `freshet up`: what moves through the pipeline, live, in a browser.
//!
//! It promises to cost nothing while nobody looks, to show whatever a file is named as text, and to answer nobody
//! but whoever asks for this machine. A browser loads a few small files that are part of the program, with nothing
//! from elsewhere, and opens `/page/events`. There the [`feed`] tells all viewers what one [`Reader`] has read from
//! Postgres and S3, once a second at most, a section only when it has changed; charts over time come from the
//! [`history`], which the survey of the pipeline fills, those of outputs whose heads ask for one from [`charts`].
//! What a person asks for by a click (a file, more files, a contract) is asked under `/page/`, a few at once ([`ask`]).
//! `/outputs/<name>` passes the published files through ([`downloads`]), because a browser cannot sign requests to S3.
//! The [`guard`] stands before all of it.

mod answers;
mod ask;
mod charts;
mod contracts;
mod downloads;
mod entities;
mod feed;
mod file;
mod guard;
mod guides;
mod history;
mod list;
mod parameters;
mod published;
mod read;
mod undo;
mod upload;
mod values;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path as PathOf, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::{Stream, StreamExt};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::http::UPLOADS;
use crate::roles::Services;
use ask::Asked;
use downloads::Downloads;
use feed::Feed;
use guard::Hosts;
use history::History;
use read::{About, Reader};

/// What the page is made of, by path below `/page/`.
const FILES: [(&str, &str, &str); 16] = [
    ("page.css", CSS, include_str!("assets/page.css")),
    ("page.js", JAVASCRIPT, include_str!("assets/page.js")),
    ("state.js", JAVASCRIPT, include_str!("assets/state.js")),
    ("dom.js", JAVASCRIPT, include_str!("assets/dom.js")),
    ("charts.js", JAVASCRIPT, include_str!("assets/charts.js")),
    ("pipeline.js", JAVASCRIPT, include_str!("assets/pipeline.js")),
    ("files.js", JAVASCRIPT, include_str!("assets/files.js")),
    ("views.js", JAVASCRIPT, include_str!("assets/views.js")),
    ("file.js", JAVASCRIPT, include_str!("assets/file.js")),
    ("entity.js", JAVASCRIPT, include_str!("assets/entity.js")),
    ("contract.js", JAVASCRIPT, include_str!("assets/contract.js")),
    ("upload.js", JAVASCRIPT, include_str!("assets/upload.js")),
    ("unmatched.js", JAVASCRIPT, include_str!("assets/unmatched.js")),
    ("outcome.js", JAVASCRIPT, include_str!("assets/outcome.js")),
    ("drawn.js", JAVASCRIPT, include_str!("assets/drawn.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];
const PAGE: &str = include_str!("assets/page.html");
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page and all it asks for. `env_file` is named to those who want to drop a file. What it starts ends with
/// `shutdown`.
pub fn router(services: &Services, env_file: &Path, shutdown: &CancellationToken) -> Router {
    let feed = Arc::new(Feed::default());
    let history = Arc::new(History::default());
    tokio::spawn(history::fill(Arc::clone(&history), services.surveyed.subscribe(), shutdown.clone()));
    let reader = Reader::new(services.clone(), history, About::new(&services.config, env_file));
    {
        let (feed, shutdown) = (Arc::clone(&feed), shutdown.clone());
        tokio::spawn(async move { feed.run(reader, shutdown).await });
    }
    let viewers = Viewers { feed, shutdown: shutdown.clone() };
    let downloads = Downloads::new(services);
    let http = &services.config.http;
    Router::new()
        .route("/", get(|| async { ([(CONTENT_TYPE, HTML)], PAGE) }))
        .route("/page/{file}", get(part))
        .merge(asked(services, env_file))
        .route("/page/events", get(events).with_state(viewers))
        .route("/docs/{name}", get(guides::guide))
        .route("/README.md", get(guides::readme))
        .route("/outputs/{name}", get(downloads::download).with_state(downloads))
        .layer(middleware::from_fn_with_state(Hosts::of(&http.listen, http.token.expose_secret()), guard::guard))
}

/// What is asked for by a click.
fn asked(services: &Services, env_file: &Path) -> Router {
    Router::new()
        .route("/page/files", get(list::files))
        .route("/page/files/{id}", get(file::file))
        .route("/page/files/{id}/table", get(file::in_table))
        .route("/page/files/{id}/rejects", get(file::rejected))
        .route("/page/files/{id}/rejects.csv", get(file::csv))
        .route("/page/files/{id}/values", get(values::values))
        .route("/page/entities/{domain}", get(entities::search))
        .route("/page/entities/{domain}/{value}", get(entities::entity))
        .route("/page/facts/{domain}/{value}", get(entities::more))
        .route("/page/contracts/{domain}", get(contracts::contract))
        .route("/page/unmatched", get(list::unmatched))
        // It bounds the body itself, once there is a place for it.
        .route(UPLOADS, post(upload::upload).layer(DefaultBodyLimit::disable()))
        .with_state(Asked::new(services, env_file))
}

async fn part(PathOf(name): PathOf<String>) -> Response {
    match FILES.iter().find(|(file, ..)| *file == name) {
        Some((_, content_type, text)) => ([(CONTENT_TYPE, *content_type)], *text).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[derive(Clone)]
struct Viewers {
    feed: Arc<Feed>,
    shutdown: CancellationToken,
}

/// Server-sent events: a section of the state each, named by the section. They end when freshet does.
async fn events(
    State(viewers): State<Viewers>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, (StatusCode, &'static str)> {
    let sections = viewers.feed.view().ok_or((StatusCode::SERVICE_UNAVAILABLE, "too many viewers\n"))?;
    let events = sections
        .map(|section| Ok(Event::default().event(section.name).data(&*section.json)))
        .take_until(viewers.shutdown.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
