//! Removes rows from a domain's table and collects what must be derived again.

use chrono::NaiveDate;
use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection};

use super::upsert::{Changed, quoted};

/// Deletes rows: `delete` is a statement without RETURNING that calls the table `t` and takes `numbers` as
/// `$1::int8[]`. Returns the number of deleted rows and what changed.
///
/// # Errors
/// If Postgres does not answer.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    domain: &Domain,
    delete: &str,
    numbers: &[i64],
) -> Result<(i64, Changed), sqlx::Error> {
    let (returned, changed) = match &domain.event_time {
        Some(it) => (
            quoted(it.columns(), "t."),
            format!("array_agg(DISTINCT \"{}\") FILTER (WHERE {})", it.date, it.observed_sql("")),
        ),
        None => {
            let key = domain.dimension_key();
            (quoted([key], "t."), format!("array_agg(DISTINCT \"{key}\"::text)"))
        }
    };
    let sql = format!("WITH removed AS ({delete} RETURNING {returned}) SELECT count(*), {changed} FROM removed");
    match domain.event_time {
        Some(_) => {
            let query = sqlx::query_as::<_, (i64, Option<Vec<NaiveDate>>)>(AssertSqlSafe(sql)).bind(numbers);
            let (removed, dates) = query.fetch_one(connection).await?;
            Ok((removed, Changed::Dates(dates.unwrap_or_default())))
        }
        None => {
            let query = sqlx::query_as::<_, (i64, Option<Vec<String>>)>(AssertSqlSafe(sql)).bind(numbers);
            let (removed, keys) = query.fetch_one(connection).await?;
            Ok((removed, Changed::Keys(keys.unwrap_or_default())))
        }
    }
}
