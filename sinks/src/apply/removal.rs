//! Removes rows from a domain's table and collects what must be derived again.

use chrono::NaiveDate;
use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection};

use super::marks;
use super::upsert::quoted;
use super::written::Changed;
use crate::postgres::DEFAULT_SCHEMA;
use crate::tables::{identifier, qualified};

/// The statements by which a person removes what the table has of an object, and marks it, so that the outputs follow. They
/// belong in one transaction. The topic still has the rows. `schema` is that of the domains' tables; a person's session finds
/// them without it only in the default one.
pub fn by_hand(domain: &Domain, schema: &str, object: i64) -> [String; 2] {
    let table = match schema {
        DEFAULT_SCHEMA => identifier(domain.table),
        schema => qualified(schema, domain.table),
    };
    let rows = format!("(SELECT * FROM {table} WHERE src_object = {object}) AS t");
    let mark = marks::everything(domain, &[rows]).replace("$1", &format!("'{}'", domain.name));
    let on_one_line = mark.split_whitespace().collect::<Vec<_>>().join(" ");
    [on_one_line, format!("DELETE FROM {table} WHERE src_object = {object}")]
}

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

#[cfg(test)]
mod tests {
    use freshet_topics::Pipeline;

    use super::*;

    #[test]
    fn what_is_removed_by_hand_is_marked_before() {
        let of = |name| by_hand(Pipeline::shipped().domain(name).expect("a domain"), "public", 12);
        assert_eq!(
            of("health"),
            [
                "INSERT INTO pipeline.marks (domain, dates) SELECT 'health', unnest(range_agg(daterange(d.date, d.date + \
                 1))) FROM (SELECT DISTINCT \"date\" AS date FROM (SELECT * FROM \"health_data\" WHERE src_object = 12) AS t \
                 WHERE \"is_projected\" IS FALSE AND \"date\" IS NOT NULL) AS d",
                "DELETE FROM \"health_data\" WHERE src_object = 12",
            ]
        );
        assert_eq!(
            of("locations")[0],
            "INSERT INTO pipeline.marks (domain, key) SELECT 'locations', b.id FROM (SELECT \"id\"::text AS id FROM (SELECT \
             * FROM \"locations\" WHERE src_object = 12) AS t) AS b"
        );
    }

    #[test]
    fn what_is_removed_by_hand_is_that_of_the_tables_own_schema() {
        for domain in Pipeline::shipped().domains {
            let table = format!("FROM \"apart\".\"{}\" WHERE src_object = 12", domain.table);
            let [mark, delete] = by_hand(domain, "apart", 12);
            assert!(mark.starts_with("INSERT INTO pipeline.marks ") && mark.contains(&table), "{mark}");
            assert_eq!(delete, format!("DELETE {table}"));
        }
    }
}
