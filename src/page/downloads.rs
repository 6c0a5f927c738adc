//! The whole-file copies of the outputs, passed through from S3. Other objects of the bucket cannot be requested.

use std::sync::Arc;

use aws_sdk_s3::error::DisplayErrorContext;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use freshet_sinks::outputs::{self, Client, FORMATS, Manifest, copy_key};
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use crate::roles::Services;

/// Downloads at once. Each holds a connection to S3 and a buffer.
const DOWNLOADS: usize = 16;

#[derive(Clone)]
pub(super) struct Downloads {
    s3: Client,
    bucket: String,
    places: Arc<Semaphore>,
}

impl Downloads {
    /// The processed bucket of the settings.
    pub(super) fn new(services: &Services) -> Downloads {
        let bucket = services.config.s3.processed_bucket.clone();
        Downloads { s3: services.s3.clone(), bucket, places: Arc::new(Semaphore::new(DOWNLOADS)) }
    }
}

/// A published output as a file, `daily_scores.csv` for example.
pub(super) async fn download(
    State(downloads): State<Downloads>,
    Path(name): Path<String>,
) -> Result<Response, (StatusCode, String)> {
    let busy = |_| (StatusCode::SERVICE_UNAVAILABLE, "too many downloads at once\n".to_owned());
    let place = Arc::clone(&downloads.places).try_acquire_owned().map_err(busy)?;
    let away = |error: String| (StatusCode::BAD_GATEWAY, format!("{error}\n"));
    let late = || (StatusCode::NOT_FOUND, "it is being written: try again in a moment\n".to_owned());
    let absent = || (StatusCode::NOT_FOUND, "no such output\n".to_owned());
    let published = outputs::read_current(&downloads.s3, &downloads.bucket).await;
    let published = published.map_err(|error| away(error.to_string()))?.ok_or_else(absent)?;
    let key = key_of(&published, &name).ok_or_else(absent)?;
    let object = match downloads.s3.get_object().bucket(&downloads.bucket).key(key).send().await {
        Ok(object) => object,
        // Published, and its first copy is about to be written.
        Err(error) if error.as_service_error().is_some_and(|it| it.is_no_such_key()) => return Err(late()),
        Err(error) => return Err(away(DisplayErrorContext(&error).to_string())),
    };
    let content_type = object.content_type().unwrap_or("application/octet-stream").to_owned();
    let length = object.content_length().unwrap_or_default();
    let bytes = ReaderStream::new(object.body.into_async_read());
    // The place is given back with the body.
    let body = Body::from_stream(futures::StreamExt::inspect(bytes, move |_| {
        let _ = &place;
    }));
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_LENGTH, length.to_string()),
        // The name is one of ours: letters, digits, _ and a dot.
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, body).into_response())
}

/// The key of the copy of that name, if it is one of the published ones.
fn key_of(published: &Manifest, name: &str) -> Option<String> {
    let copies = published.changed.keys().flat_map(|output| FORMATS.map(|format| (output, format)));
    let mut named = copies.filter(|(output, format)| format!("{output}.{format}") == name);
    named.next().map(|(output, format)| copy_key(output, format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_published_copies_have_a_name() {
        let changed = [("daily_scores".to_owned(), 3), ("totals".to_owned(), 1)].into();
        let published = Manifest { changed, ..Manifest::default() };
        assert_eq!(key_of(&published, "daily_scores.csv").as_deref(), Some("metrics/daily_scores.csv"));
        assert_eq!(key_of(&published, "totals.parquet").as_deref(), Some("metrics/totals.parquet"));
        for name in [
            "",
            "current.json",
            "daily_scores",
            "daily_scores.exe",
            "other.csv",
            "../metrics/daily_scores.csv",
            "data/daily_scores/month-2025-09-01.csv",
            "Daily_scores.csv",
        ] {
            assert_eq!(key_of(&published, name), None, "{name}");
        }
    }
}
