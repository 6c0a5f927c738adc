//! The corrected values of a file, line by line: its bytes are read and judged again, as `freshet validate` does.
//!
//! The tables keep of a corrected value only the rule; the file still has the value. It is read where its version is still
//! in the bucket and is of a size that a person waits for.

use std::path::Path as FilePath;

use anyhow::Context;
use aws_sdk_s3::error::DisplayErrorContext;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use freshet_topics::causes::in_one_line;
use futures::FutureExt;
use sqlx::PgConnection;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

use super::ask::{Asked, Refused, absent, away};
use crate::commands::validate::{self, Report};
use crate::config::Config;

/// Bytes of a file that is read, as stored and inflated: some seconds' work at most.
const BYTES_MAX: i64 = 16 << 20;
const INFLATED_BYTES_MAX: u64 = 64 << 20;
/// Places that are listed.
const PLACES_MAX: usize = 500;

/// The version to read.
#[derive(sqlx::FromRow)]
struct Version {
    domain: String,
    bucket: String,
    key: String,
    version_id: Option<String>,
    etag: String,
    size_bytes: i64,
}

/// `GET /page/files/ID/values`: what `freshet validate` says of the file.
pub(super) async fn values(State(asked): State<Asked>, Path(id): Path<i64>) -> Result<Json<Report>, Refused> {
    let version = asked.postgres(move |connection| version(connection, id).boxed()).await?;
    let version = version.ok_or_else(|| absent("no such file"))?;
    let config = &asked.services.config;
    let domain = config
        .pipeline
        .domain(&version.domain)
        .ok_or_else(|| absent("this program does not know the file's domain"))?;
    if version.size_bytes > BYTES_MAX {
        let said =
            format!("the file is too large to be checked here: use `freshet validate --domain {}`\n", version.domain);
        return Err((StatusCode::PAYLOAD_TOO_LARGE, said));
    }
    let _place = asked.place().await?;
    let folder = tempfile::tempdir().map_err(|error| away(format!("make a folder for the file: {error}")))?;
    let path = folder.path().join(name_of(&version.key));
    fetch(&asked, &version, &path).await?;
    let mut config: Config = config.clone();
    config.ingest.inflated_bytes_max = config.ingest.inflated_bytes_max.min(INFLATED_BYTES_MAX);
    // Judging is work of the processor: not on a thread that serves others.
    let judged = tokio::task::spawn_blocking(move || {
        Handle::current().block_on(validate::judge_file(&config, domain, &path, PLACES_MAX))
    });
    let report = judged.await.context("judge the file").and_then(|report| report);
    Ok(Json(report.map_err(|error| away(in_one_line(error.as_ref())))?))
}

async fn version(connection: &mut PgConnection, id: i64) -> Result<Option<Version>, sqlx::Error> {
    sqlx::query_as("SELECT domain, bucket, key, version_id, etag, size_bytes FROM pipeline.objects WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// Copies the version to the disk.
async fn fetch(asked: &Asked, version: &Version, path: &FilePath) -> Result<(), Refused> {
    let Version { bucket, key, version_id, etag, .. } = version;
    let request = asked.services.s3.get_object().bucket(bucket).key(key).set_version_id(version_id.clone());
    let object = match request.if_match(etag).send().await {
        Ok(object) => object,
        Err(error) if error.raw_response().is_some_and(|it| matches!(it.status().as_u16(), 404 | 405 | 412)) => {
            let said = "this version of the file is no longer in the bucket, so the corrected lines are not known\n";
            return Err((StatusCode::GONE, said.to_owned()));
        }
        Err(error) => return Err(away(format!("S3: {}", DisplayErrorContext(&error)))),
    };
    let unwritten = |error: std::io::Error| away(format!("copy the file: {error}"));
    let mut body = object.body;
    let mut file = tokio::fs::File::create(path).await.map_err(unwritten)?;
    while let Some(piece) = body.try_next().await.map_err(|error| away(format!("S3: {error}")))? {
        file.write_all(&piece).await.map_err(unwritten)?;
    }
    file.flush().await.map_err(unwritten)
}

/// A name that says as much of the content as the key: its endings.
fn name_of(key: &str) -> String {
    let last = key.rsplit('/').next().unwrap_or(key);
    let endings: Vec<&str> = last.rsplit('.').take(2).take_while(|it| it.chars().all(char::is_alphanumeric)).collect();
    endings.into_iter().rev().fold("object".to_owned(), |name, ending| format!("{name}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_named_by_the_endings_of_the_key_alone() {
        for (key, expected) in [
            ("health/a.csv", "object.a.csv"),
            ("health/2025/a.csv.gz", "object.csv.gz"),
            ("health/a b.csv", "object.csv"),
            ("health/..", "object.."),
            ("health/", "object."),
            ("health/'$(x).csv", "object.csv"),
        ] {
            let name = name_of(key);
            assert!(!name.contains('/') && name.starts_with("object"), "{key}: {name}");
            assert_eq!(name, expected, "{key}");
        }
    }
}
