//! The `id`s of a shadow's rows: those that the live table has for their keys, so that a swap keeps them.

use freshet_topics::Domain;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::arrays;
use super::upsert::{Candidate, has_surrogate_id, quoted, row_of_key};
use crate::destination::Destination;

/// Where the `id`s of rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The live table's row with the same key; the next one for a key that it does not have.
    OfKey,
    /// The next ones of the live table, for all rows: its rows cannot be found by the key.
    Next,
    /// The table that is written: it numbers its rows, or `id` is a column of the domain's own.
    Unset,
}

impl Ids {
    /// Those of a destination, as long as the key of its table is that of the live one.
    pub(super) fn at(domain: &Domain, destination: Destination) -> Ids {
        match destination == Destination::Shadow && has_surrogate_id(domain) {
            true => Ids::OfKey,
            false => Ids::Unset,
        }
    }

    /// The id of a row `u`, and the join that it needs; `None` if no id is written.
    pub(super) fn sql(self, domain: &Domain) -> Option<(String, String)> {
        let live = Destination::Live.table(domain);
        let next = format!("nextval(pg_get_serial_sequence('{live}', 'id'))");
        match self {
            Ids::Unset => None,
            Ids::Next => Some((next, String::new())),
            Ids::OfKey => {
                let join = format!("LEFT JOIN LATERAL ({}) AS live ON true", row_of_key(domain, &live, "l.id"));
                Some((format!("coalesce(live.id, {next})"), join))
            }
        }
    }
}

fn statement(domain: &Domain, (id, join): (String, String)) -> String {
    let types = domain.key.iter().map(|name| domain.columns[domain.index_of(name)].cast.sql_type());
    let arrays: Vec<String> = (1..).zip(types).map(|(at, of)| format!("${at}::{of}[]")).collect();
    format!(
        "SELECT array_agg(n.id ORDER BY n.ord)
         FROM (SELECT {id} AS id, u.ord FROM UNNEST({}) WITH ORDINALITY AS u ({}, ord) {join}) AS n",
        arrays.join(", "),
        quoted(domain.key.iter().copied(), ""),
    )
}

/// An id for each of these rows, of which there is at least one, in their order; `None` if there is no next one, because
/// the column has no sequence.
///
/// # Errors
/// If Postgres does not answer.
pub(super) async fn of_rows(
    connection: &mut PgConnection,
    domain: &Domain,
    sql: (String, String),
    rows: &[Candidate<'_>],
) -> Result<Option<Vec<i64>>, sqlx::Error> {
    let sql = statement(domain, sql);
    let key = domain.key.iter().map(|name| domain.index_of(name));
    let query = key.fold(sqlx::query(AssertSqlSafe(sql)), |query, column| arrays::bind_column(query, column, rows));
    // One array in place of a row for each id: thousands of rows less to send and to read.
    let ids: Vec<Option<i64>> = query.fetch_one(connection).await?.try_get(0)?;
    Ok(ids.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use freshet_topics::domains;

    use super::*;

    #[test]
    fn only_rows_that_are_found_by_their_key_are_looked_up() {
        let health = domains::by_name("health").expect("a domain");
        let next = "nextval(pg_get_serial_sequence('\"health_data\"', 'id'))";
        assert_eq!(Ids::Next.sql(health), Some((next.to_owned(), String::new())));
        let (id, join) = Ids::OfKey.sql(health).expect("an id");
        assert_eq!(id, format!("coalesce(live.id, {next})"));
        assert!(join.contains("l.\"location_id\" = u.\"location_id\""), "{join}");
        assert_eq!(Ids::Unset.sql(health), None);
        assert_eq!(Ids::at(health, Destination::Live), Ids::Unset);
        assert_eq!(Ids::at(health, Destination::Shadow), Ids::OfKey);
    }
}
