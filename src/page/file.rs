//! One file: its details, its stages with times, and its rejected rows, to look at and as CSV.

use aws_sdk_s3::Client;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use freshet_sinks::ledger::ObjectState;
use freshet_sinks::outputs::Store;
use freshet_topics::Domain;
use futures::FutureExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::ask::{Asked, Refused, absent};
use super::parameters::Parameters;
use super::undo::{self, Undo, Undoing};
use crate::commands::rejects;
use crate::status::files::{self, FileOutcome};
use crate::status::personal;

/// Rejected rows that are given at once.
const REJECTS_PAGE: i64 = 100;
/// Maximum number of rules and columns shown of a file.
const RULES: i64 = 100;
/// Versions of one key that are named, the newest.
const VERSIONS: i64 = 20;
/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 200;
/// Rejected rows of a CSV, and their bytes: it is put together in memory.
const CSV_ROWS_MAX: i64 = 20_000;
const CSV_BYTES_MAX: i64 = 32 << 20;

/// One object version, as the page shows it by itself.
#[derive(Debug, Serialize)]
pub(super) struct File {
    #[serde(flatten)]
    outcome: FileOutcome,
    #[serde(flatten)]
    more: More,
    /// Rules by which rows are rejected, the most frequent first.
    rules: Vec<Counted>,
    /// Columns and rules by which values were changed.
    corrections: Vec<Counted>,
    /// Versions of the same key, this one among them, the newest first.
    versions: Vec<Version>,
    /// The first version of the outputs that was derived from all of its rows.
    outputs: Option<InOutputs>,
    /// Whether its rejected rows may be taken away as CSV.
    has_csv: bool,
    /// Older versions of the same key whose other rows left the table with this one.
    removed: Vec<i64>,
    /// How to undo it; none if this program does not know its domain.
    undo: Option<Undo>,
}

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
struct More {
    version_id: Option<String>,
    etag: String,
    discovered_at: DateTime<Utc>,
    /// When its last row was in Kafka.
    published_at: Option<DateTime<Utc>>,
    /// When all of its rows were in Postgres.
    applied_at: Option<DateTime<Utc>>,
    deleted_at: Option<DateTime<Utc>>,
    /// The newer version by which its rows have left the table.
    replaced_by: Option<i64>,
    /// Rows of it that were written to the table.
    applied: i64,
    /// Times that it was sent again because rows were missing.
    repairs: i32,
    attempts: i32,
    #[serde(skip)]
    end_offsets: Option<Vec<i64>>,
    /// Whether its offsets are of the topic as it is now.
    #[serde(skip)]
    is_of_stream: bool,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Counted {
    column: Option<String>,
    rule: String,
    number: i64,
}

/// A version of the key.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub(super) struct Version {
    pub(super) id: i64,
    pub(super) last_modified: DateTime<Utc>,
    pub(super) version_id: Option<String>,
    pub(super) state: ObjectState,
    /// The version by which its rows have left the table.
    pub(super) replaced_by: Option<i64>,
}

#[derive(Debug, Serialize)]
struct InOutputs {
    version: u64,
    at: Option<DateTime<Utc>>,
    /// Whether no older version held them; of one whose manifest is gone, or of another epoch, that is not known.
    is_first: bool,
}

/// `GET /page/files/ID`.
pub(super) async fn file(State(asked): State<Asked>, Path(id): Path<i64>) -> Result<Json<File>, Refused> {
    let read = asked.postgres(move |connection| read(connection, id).boxed()).await?;
    let mut file = read.ok_or_else(|| absent("no such file"))?;
    let domain = asked.services.config.pipeline.domain(file.outcome.domain());
    file.has_csv = file.outcome.rejected() > 0 && domain.is_some_and(|domain| !domain.has_personal_columns());
    file.undo = domain.map(|domain| undo::undo(file.undoing(&asked), domain));
    // Rows that never came to the table are in no output.
    let has_rows = file.outcome.state() == ObjectState::Applied && file.more.applied > 0;
    if let (Some(offsets), true) = (&file.more.end_offsets, file.more.is_of_stream && has_rows) {
        let _place = asked.place().await?;
        let (config, s3) = (&asked.services.config, asked.services.s3.clone());
        // Where S3 does not answer the rest is worth showing: the page says by itself that S3 is away.
        file.outputs = in_outputs(s3, &config.s3.processed_bucket, file.outcome.domain(), offsets).await;
    }
    Ok(Json(file))
}

impl File {
    fn undoing<'f>(&'f self, asked: &'f Asked) -> Undoing<'f> {
        Undoing {
            id: self.outcome.id(),
            bucket: &asked.services.config.s3.raw_bucket,
            key: self.outcome.key(),
            state: self.outcome.state(),
            version_id: self.more.version_id.as_deref(),
            has_changes: self.more.applied > 0 || !self.removed.is_empty(),
            versions: &self.versions,
            schema: &asked.services.config.postgres.schema,
            env_file: &asked.env_file,
        }
    }
}

async fn in_outputs(s3: Client, bucket: &str, domain: &str, offsets: &[i64]) -> Option<InOutputs> {
    let store = Store::new(s3, bucket);
    let first = tokio::time::timeout(files::OUTPUTS_TIMEOUT, store.first_with(domain, offsets)).await.ok()?.ok()??;
    let at = DateTime::from_timestamp(first.modified, 0);
    Some(InOutputs { version: first.version, at, is_first: first.is_first })
}

async fn read(connection: &mut PgConnection, id: i64) -> Result<Option<File>, sqlx::Error> {
    let Some(outcome) = files::one(connection, id).await? else { return Ok(None) };
    let more = sqlx::query_as(
        "SELECT o.version_id, o.etag, o.discovered_at, o.published_at, o.applied_at, o.deleted_at, o.replaced_by, o.repairs,
            o.attempts, o.end_offsets,
            (SELECT coalesce(sum(p.applied), 0)::bigint FROM pipeline.progress p
             WHERE p.object = o.id AND p.generation = o.generation) AS applied,
            coalesce(o.stream_id = (SELECT s.stream_id FROM pipeline.streams s WHERE s.domain = o.domain), false)
                AS is_of_stream
         FROM pipeline.objects o WHERE o.id = $1",
    )
    .bind(id)
    .fetch_one(&mut *connection)
    .await?;
    let rules = sqlx::query_as(
        "SELECT r.\"column\", r.rule, count(*) AS number FROM pipeline.rejects r
         JOIN pipeline.objects o ON o.id = r.object AND o.generation = r.generation
         WHERE r.object = $1 GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT $2",
    )
    .bind(id)
    .bind(RULES)
    .fetch_all(&mut *connection)
    .await?;
    let corrections = sqlx::query_as(
        "SELECT split_part(c.what, ':', 1) AS \"column\", split_part(c.what, ':', 2) AS rule,
            sum(c.number::bigint)::bigint AS number
         FROM pipeline.progress p JOIN pipeline.objects o ON o.id = p.object AND o.generation = p.generation
            CROSS JOIN LATERAL jsonb_each_text(p.corrections) AS c (what, number)
         WHERE p.object = $1 GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT $2",
    )
    .bind(id)
    .bind(RULES)
    .fetch_all(&mut *connection)
    .await?;
    let versions: Vec<Version> = sqlx::query_as(
        "SELECT v.id, v.last_modified, v.version_id, v.state, v.replaced_by FROM pipeline.objects o
         JOIN pipeline.objects v ON v.bucket = o.bucket AND v.key = o.key
         WHERE o.id = $1 ORDER BY v.src_ord DESC LIMIT $2",
    )
    .bind(id)
    .bind(VERSIONS)
    .fetch_all(connection)
    .await?;
    let removed = versions.iter().filter(|it| it.replaced_by == Some(id)).map(|it| it.id).collect();
    let (outputs, has_csv, undo) = (None, false, None);
    Ok(Some(File { outcome, more, rules, corrections, versions, outputs, has_csv, removed, undo }))
}

/// Rows of a file that are in its table now.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(super) struct InTable {
    rows: i64,
    /// Those of them that brought other values than the table had, or a new key.
    new_values: i64,
}

/// `GET /page/files/ID/table`. It looks through the whole table: one that takes longer than a question may is not counted.
pub(super) async fn in_table(State(asked): State<Asked>, Path(id): Path<i64>) -> Result<Json<InTable>, Refused> {
    let read = asked.postgres(move |connection| files::one(connection, id).boxed()).await?;
    let outcome = read.ok_or_else(|| absent("no such file"))?;
    let domain = asked.services.config.pipeline.domain(outcome.domain());
    let domain = domain.ok_or_else(|| absent("this program does not know the file's domain"))?;
    let sql = format!(
        "SELECT count(*) AS rows, count(*) FILTER (WHERE value_ord = src_ord) AS new_values FROM \"{}\" WHERE src_object = $1",
        domain.table
    );
    let counted = asked
        .postgres(move |connection| sqlx::query_as(AssertSqlSafe(sql)).bind(id).fetch_one(connection).boxed())
        .await;
    counted.map(Json).map_err(|(status, said)| (status, format!("not counted, see `freshet changes`: {said}")))
}

/// Rejected rows, and where the next page begins.
#[derive(Debug, Serialize)]
pub(super) struct Rejected {
    rejects: Vec<RejectedRow>,
    /// Ask again with `after` so; none at the end.
    next: Option<i64>,
}

#[derive(Debug, Serialize)]
struct RejectedRow {
    row: i64,
    line: i64,
    column: Option<String>,
    value: Option<String>,
    rule: String,
}

/// `GET /page/files/ID/rejects?after=ROW`, in the order of the file.
pub(super) async fn rejected(
    State(asked): State<Asked>,
    Path(id): Path<i64>,
    uri: Uri,
) -> Result<Json<Rejected>, Refused> {
    let after = Parameters::of(&uri).number("after").unwrap_or(-1);
    let found =
        asked.postgres(move |connection| rejects::of_object(connection, id, after, REJECTS_PAGE).boxed()).await?;
    let is_last = (found.len() as i64) < REJECTS_PAGE;
    let next = found.last().filter(|_| !is_last).map(|reject| reject.row);
    let pipeline = asked.services.config.pipeline;
    let rejects = found.into_iter().map(|reject| {
        let domain = pipeline.domain(&reject.domain);
        let value = reject.value.map(|value| freshet_ingest::inspect::visible(&value, VALUE_CHARS_MAX));
        let value = personal::shown(domain, reject.column.as_deref(), value);
        RejectedRow { row: reject.row, line: reject.line, column: reject.column, value, rule: reject.rule }
    });
    Ok(Json(Rejected { rejects: rejects.collect(), next }))
}

/// `GET /page/files/ID/rejects.csv`: as `freshet rejects export` writes it. A file of a domain with personal columns has
/// none: without them it could not be dropped again, and with them it is not for whoever sees the page.
pub(super) async fn csv(State(asked): State<Asked>, Path(id): Path<i64>) -> Result<Response, Refused> {
    let (domain, bytes) = asked.postgres(move |connection| size(connection, id).boxed()).await?;
    let domain = asked.services.config.pipeline.domain(&domain).ok_or_else(|| absent("no row of it was rejected"))?;
    check(domain, bytes)?;
    let rejects =
        asked.postgres(move |connection| rejects::of_object(connection, id, -1, CSV_ROWS_MAX + 1).boxed()).await?;
    if rejects.len() as i64 > CSV_ROWS_MAX {
        return Err(too_large(domain));
    }
    let export = rejects::csv_of(domain, &rejects).ok_or_else(|| absent("no row of it was rejected"))?;
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        // Letters, digits, - and _ of any script: a header has ASCII.
        (CONTENT_DISPOSITION, format!("attachment; filename*=UTF-8''{}", percent_encoded(&export.name))),
    ];
    Ok((headers, export.text).into_response())
}

fn percent_encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The domain of a file, empty where no row of it was rejected, and the bytes of the rejected rows.
async fn size(connection: &mut PgConnection, id: i64) -> Result<(String, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce(min(r.domain), ''), coalesce(sum(octet_length(r.raw)), 0)::bigint
         FROM pipeline.rejects r JOIN pipeline.objects o ON o.id = r.object AND o.generation = r.generation
         WHERE r.object = $1",
    )
    .bind(id)
    .fetch_one(connection)
    .await
}

fn check(domain: &Domain, bytes: i64) -> Result<(), Refused> {
    if domain.has_personal_columns() {
        let said = format!(
            "files of {0} have personal columns, which are not shown here: use `freshet rejects export {0}`\n",
            domain.name
        );
        return Err((StatusCode::FORBIDDEN, said));
    }
    if bytes > CSV_BYTES_MAX { Err(too_large(domain)) } else { Ok(()) }
}

fn too_large(domain: &Domain) -> Refused {
    let said = format!("too many rows for the page: use `freshet rejects export {}`\n", domain.name);
    (StatusCode::PAYLOAD_TOO_LARGE, said)
}

#[cfg(test)]
mod tests {
    use freshet_topics::{Cast, Column, DOMAINS};

    use super::*;

    #[test]
    fn rows_with_personal_columns_and_too_many_rows_are_not_given_away() {
        let open = DOMAINS[0];
        let columns = vec![Column { personal: true, ..Column::optional("patient", Cast::Text) }];
        let closed = Domain { columns: columns.leak(), name: "visits", ..*open };
        let status = |domain, bytes| check(domain, bytes).map_err(|(status, _)| status.as_u16());
        assert_eq!(status(open, CSV_BYTES_MAX), Ok(()));
        assert_eq!(status(open, CSV_BYTES_MAX + 1), Err(413));
        assert_eq!(status(&closed, 1), Err(403));
        let (_, said) = check(&closed, 1).expect_err("refused");
        assert!(said.contains("`freshet rejects export visits`"), "{said}");
    }
}
