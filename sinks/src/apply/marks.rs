//! Change marks: a transaction records what it changed for the publisher, and wakes it.
//!
//! A mark says what changed: dates of a fact, or a row of a dimension. The publisher decides which windows of which
//! outputs must be derived again, so a new output needs no change to what applies rows.

use std::collections::BTreeSet;

use chrono::{Days, NaiveDate};
use freshet_topics::{Domain, EventTime};
use sqlx::{AssertSqlSafe, PgConnection};

use super::written::{Changed, Written};

/// The channel that tells a publisher about new change marks.
pub const MARKS_CHANNEL: &str = "freshet_marks";

/// What a transaction changed, without repetition.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    dates: BTreeSet<NaiveDate>,
    keys: BTreeSet<String>,
}

impl Marks {
    /// The changes made by written rows.
    pub(crate) fn of(written: &[Written]) -> Self {
        let mut marks = Marks::default();
        for one in written {
            marks.add(&one.changed);
        }
        marks
    }

    /// Adds what must be derived again.
    pub(crate) fn add(&mut self, changed: &Changed) {
        match changed {
            Changed::Keys(keys) => self.keys.extend(keys.iter().cloned()),
            Changed::Dates(dates) => self.dates.extend(dates),
        }
    }

    /// Appends the marks, and wakes the publisher when the transaction commits.
    pub(crate) async fn append(&self, connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
        if self.dates.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        let (firsts, ends): (Vec<NaiveDate>, Vec<NaiveDate>) = ranges(&self.dates).into_iter().unzip();
        sqlx::query(
            "WITH appended AS (
                 INSERT INTO pipeline.marks (domain, dates, key)
                 SELECT $1, daterange(u.first, u.after), NULL FROM UNNEST($2::date[], $3::date[]) AS u (first, after)
                 UNION ALL
                 SELECT $1, NULL, u.key FROM UNNEST($4::text[]) AS u (key)
             )
             SELECT pg_notify($5, $1)",
        )
        .bind(domain)
        .bind(firsts)
        .bind(ends)
        .bind(self.keys.iter().cloned().collect::<Vec<_>>())
        .bind(MARKS_CHANNEL)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Consecutive dates become one range: its first day, and the day after its last. A file of several years is one mark.
///
/// | dates | ranges |
/// |---|---|
/// | 1, 2, 3, 5 | [1, 4), [5, 6) |
/// | none | none |
fn ranges(dates: &BTreeSet<NaiveDate>) -> Vec<(NaiveDate, NaiveDate)> {
    let mut ranges: Vec<(NaiveDate, NaiveDate)> = Vec::new();
    for date in dates {
        // Dates are years 0000 to 9999 by the cast.
        let after = *date + Days::new(1);
        match ranges.last_mut().filter(|(_, end)| end == date) {
            Some((_, end)) => *end = after,
            None => ranges.push((*date, after)),
        }
    }
    ranges
}

/// Marks everything in these tables of a domain, and wakes the publisher when the transaction commits.
pub(crate) async fn mark_everything(
    connection: &mut PgConnection,
    domain: &Domain,
    tables: &[String],
) -> Result<(), sqlx::Error> {
    let sql = match &domain.event_time {
        Some(event_time) => {
            // With few observed rows expected, the planner would rather sort the table for each date.
            sqlx::query("SET LOCAL enable_sort = off").execute(&mut *connection).await?;
            let mut queries = Vec::new();
            for table in tables {
                let is_ordered = can_be_read_in_order(connection, table, event_time.date).await?;
                queries.push(if is_ordered { dates_in_order(event_time, table) } else { dates(event_time, table) });
            }
            mark_dates(&queries)
        }
        None => everything(domain, tables),
    };
    sqlx::query(AssertSqlSafe(sql)).bind(domain.name).execute(&mut *connection).await?;
    sqlx::query("SET LOCAL enable_sort TO DEFAULT").execute(&mut *connection).await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind(MARKS_CHANNEL).bind(domain.name).execute(connection).await?;
    Ok(())
}

/// Whether the table has an index that gives all its rows in the order of this column, with NULL at the end. One that was
/// made beside updates (`indcheckxmin`) does not count: the transaction that made it could not use it.
async fn can_be_read_in_order(connection: &mut PgConnection, table: &str, column: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = $1::regclass AND a.attname = $2 AND i.indpred IS NULL AND i.indisvalid
                AND NOT i.indcheckxmin AND pg_index_column_has_property(i.indexrelid, 1, 'orderable')
                AND pg_index_column_has_property(i.indexrelid, 1, 'asc')
                    = pg_index_column_has_property(i.indexrelid, 1, 'nulls_last'))",
    )
    .bind(table)
    .bind(column)
    .fetch_one(connection)
    .await
}

/// The query for the dates of a table.
fn dates(event_time: &EventTime, table: &str) -> String {
    let (date, observed) = (event_time.date, event_time.observed_sql(""));
    format!("SELECT DISTINCT \"{date}\" AS date FROM {table} WHERE {observed} AND \"{date}\" IS NOT NULL")
}

/// The same: each date is found in an index behind the one before, so that not all rows of a date are read. The live
/// pipeline waits for it while tables are swapped. Rows that are not observed are read once each.
fn dates_in_order(event_time: &EventTime, table: &str) -> String {
    let (date, observed) = (event_time.date, event_time.observed_sql("r."));
    let first = |condition: &str| {
        format!(
            "SELECT r.\"{date}\" FROM {table} AS r
             WHERE {observed} AND r.\"{date}\" {condition} ORDER BY r.\"{date}\" LIMIT 1"
        )
    };
    format!(
        "(WITH RECURSIVE freshet_dates (date) AS (
            ({})
            UNION ALL SELECT ({}) FROM freshet_dates WHERE freshet_dates.date IS NOT NULL
          ) SELECT date FROM freshet_dates WHERE date IS NOT NULL)",
        first("IS NOT NULL"),
        first("> freshet_dates.date"),
    )
}

/// The statement that marks the dates of all facts in these tables, or all rows of a dimension.
pub(super) fn everything(domain: &Domain, tables: &[String]) -> String {
    match &domain.event_time {
        Some(event_time) => mark_dates(&tables.iter().map(|table| dates(event_time, table)).collect::<Vec<_>>()),
        None => {
            let id = domain.dimension_key();
            // As text: its type may be another one in each table.
            let ids: Vec<String> =
                tables.iter().map(|table| format!("SELECT \"{id}\"::text AS id FROM {table}")).collect();
            let ids = ids.join(" UNION ");
            format!("INSERT INTO pipeline.marks (domain, key) SELECT $1, b.id FROM ({ids}) AS b")
        }
    }
}

/// The statement that marks the dates that these queries find.
fn mark_dates(queries: &[String]) -> String {
    let dates = queries.join(" UNION ");
    format!(
        "INSERT INTO pipeline.marks (domain, dates)
         SELECT $1, unnest(range_agg(daterange(d.date, d.date + 1))) FROM ({dates}) AS d"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_that_follow_each_other_are_one_range() {
        type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);
        let cases: &[Case] = &[
            (&[], &[]),
            (&["2025-09-21"], &[("2025-09-21", "2025-09-22")]),
            (
                &["2025-09-03", "2025-09-01", "2025-08-31", "2025-09-05"],
                &[("2025-08-31", "2025-09-02"), ("2025-09-03", "2025-09-04"), ("2025-09-05", "2025-09-06")],
            ),
            (&["9999-12-30", "9999-12-31"], &[("9999-12-30", "+10000-01-01")]),
        ];
        let date = |text: &&str| text.parse::<NaiveDate>().expect("a date");
        for (dates, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(first, after)| (date(first), date(after))).collect();
            assert_eq!(ranges(&dates.iter().map(date).collect()), expected, "{dates:?}");
        }
    }
}
