//! All files, page by page, the newest first: of a domain, of a kind, or with a text in their key.
//!
//! The ledger is read along its primary key, from where the page before ended; a question that finds little stops after a
//! bounded number of files, and says where to go on.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use freshet_sinks::unmatched::{self, AllUnmatched, KEPT_MAX};
use futures::FutureExt;
use serde::Serialize;

use super::ask::{Asked, Refused};
use super::parameters::Parameters;
use crate::status::files::{self, FileOutcome, Kind, Wanted};

/// Files of a page.
const PAGE: i64 = 40;
/// Files that are looked at for a page: a second's work at most.
const LOOKED_AT: i64 = 100_000;

#[derive(Debug, Serialize)]
pub(super) struct Page {
    files: Vec<FileOutcome>,
    /// Ask again with `before` so; none at the end.
    next: Option<i64>,
    /// Whether there may be files of the kind beyond those that were looked at.
    is_cut: bool,
}

/// `GET /page/files?domain=…&show=…&search=…&before=…`.
pub(super) async fn files(State(asked): State<Asked>, uri: Uri) -> Result<Json<Page>, Refused> {
    let parameters = Parameters::of(&uri);
    let kind = match parameters.text("show") {
        None => Kind::All,
        Some(name) => {
            let unknown = || (StatusCode::BAD_REQUEST, format!("unknown kind of files: {name}\n"));
            Kind::by_name(name).ok_or_else(unknown)?
        }
    };
    let wanted = Wanted {
        domain: parameters.text("domain").map(str::to_owned),
        kind,
        search: parameters.text("search").unwrap_or_default().to_owned(),
        before: parameters.number("before").unwrap_or(i64::MAX),
        files_max: PAGE,
        looked_at_max: LOOKED_AT,
    };
    let (files, looked_to) = asked.postgres(move |connection| files::page(connection, wanted).boxed()).await?;
    Ok(Json(match files.last().map(FileOutcome::id) {
        Some(last) if files.len() as i64 == PAGE => Page { files, next: Some(last), is_cut: false },
        _ => Page { files, next: looked_to, is_cut: looked_to.is_some() },
    }))
}

/// `GET /page/unmatched`: the objects that belong to no domain, as many as are kept.
pub(super) async fn unmatched(State(asked): State<Asked>) -> Result<Json<AllUnmatched>, Refused> {
    Ok(Json(asked.postgres(move |connection| unmatched::read(connection, KEPT_MAX as i64).boxed()).await?))
}
