//! The history of one entity (the row of a dimension that facts refer to): its row, and its facts, the newest first.
//!
//! Which columns those are the contracts say: the key of a fact begins with a reference to the dimension. So an entity's facts
//! stand together in the index of the fact's key, by date.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use chrono::NaiveDate;
use freshet_topics::{Cast, Column, Domain, Pipeline};
use futures::FutureExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::ask::{Asked, Refused, absent};
use super::parameters::Parameters;
use crate::status::personal::PERSONAL;

/// Facts of a domain that are given at once.
const FACTS: usize = 60;
/// Entities that a search finds.
const FOUND: i64 = 20;

/// A row: its cells as text, in the order of the columns, and the file that it is from.
#[derive(Debug, PartialEq, Serialize)]
struct Shown {
    cells: Vec<Option<String>>,
    /// `pipeline.objects.id`; 0 for no file.
    file: i64,
    /// Its name, if the ledger has it.
    key: Option<String>,
    /// Which data row of it, from 0.
    row: i64,
}

/// An entity.
#[derive(Debug, Serialize)]
pub(super) struct Entity {
    domain: &'static str,
    columns: Vec<&'static str>,
    /// None where facts refer to it and the dimension does not have it.
    row: Option<Shown>,
    histories: Vec<Facts>,
}

/// The facts of an entity that a domain holds.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    domain: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Shown>,
    /// Ask again with `until` so; none at the end.
    next: Option<NaiveDate>,
}

/// Column of facts → the dimension that it refers to: whatever is known by such a column has a history.
pub(super) fn by_column(pipeline: &Pipeline) -> BTreeMap<&'static str, &'static str> {
    pipeline.domains.iter().filter_map(|fact| reference(fact)).map(|(column, to, _)| (column.name, to)).collect()
}

/// The first column of a fact's key, if it refers to a dimension, and not to a person; with the dimension and the column there.
fn reference(fact: &Domain) -> Option<(&'static Column, &'static str, &'static str)> {
    fact.event_time?;
    let column = fact.column(fact.key.first()?).filter(|column| !column.personal)?;
    column.references.map(|reference| (column, reference.domain, reference.column))
}

/// The column of a dimension by which facts refer to it.
fn referred(pipeline: &Pipeline, dimension: &Domain) -> Option<&'static Column> {
    let mut references = pipeline.domains.iter().filter_map(|fact| reference(fact));
    let (.., name) = references.find(|(_, to, _)| *to == dimension.name)?;
    dimension.column(name).filter(|column| !column.personal)
}

fn dimension(asked: &Asked, name: &str) -> Result<(&'static Domain, &'static Column), Refused> {
    let pipeline = asked.services.config.pipeline;
    let known = pipeline.domain(name).and_then(|domain| Some((domain, referred(pipeline, domain)?)));
    known.ok_or_else(|| absent("no facts refer to this domain"))
}

/// A value as a column of that type would hold it, in SQL; what is none is refused before Postgres is asked.
fn check(column: &Column, value: &str) -> Result<(), Refused> {
    let fits = match column.cast {
        Cast::Int => value.parse::<i32>().is_ok(),
        Cast::BigInt => value.parse::<i64>().is_ok(),
        Cast::Text | Cast::TrimmedText => true,
        _ => false,
    };
    let said = || (StatusCode::BAD_REQUEST, format!("`{value}` is not a valid {} of a row\n", column.name));
    if fits { Ok(()) } else { Err(said()) }
}

/// `GET /page/entities/DIMENSION/VALUE`.
pub(super) async fn entity(
    State(asked): State<Asked>,
    Path((domain, value)): Path<(String, String)>,
) -> Result<Json<Entity>, Refused> {
    let (dimension, by) = dimension(&asked, &domain)?;
    check(by, &value)?;
    let pipeline = asked.services.config.pipeline;
    let read = asked.postgres(move |connection| {
        async move {
            let row = rows(connection, dimension, by, &value, "", None, 1).await?.into_iter().next();
            let mut histories = Vec::new();
            for fact in pipeline.domains {
                if let Some((column, ..)) = reference(fact).filter(|(_, to, _)| *to == dimension.name) {
                    histories.push(facts(connection, fact, column, &value, None).await?);
                }
            }
            Ok((row, histories))
        }
        .boxed()
    });
    let (row, histories) = read.await?;
    if row.is_none() && histories.iter().all(|facts| facts.rows.is_empty()) {
        return Err(absent("nothing is known of it"));
    }
    Ok(Json(Entity { domain: dimension.name, columns: names(dimension), row: row.map(|(_, row)| row), histories }))
}

/// `GET /page/facts/FACT/VALUE?until=DATE`: more of the facts of an entity.
pub(super) async fn more(
    State(asked): State<Asked>,
    Path((domain, value)): Path<(String, String)>,
    uri: Uri,
) -> Result<Json<Facts>, Refused> {
    let fact = asked.services.config.pipeline.domain(&domain);
    let known = fact.and_then(|fact| Some((fact, reference(fact)?)));
    let (fact, (column, ..)) = known.ok_or_else(|| absent("no such facts"))?;
    check(column, &value)?;
    let until = Parameters::of(&uri).text("until").and_then(|date| date.parse().ok());
    let found = asked
        .postgres(move |connection| async move { facts(connection, fact, column, &value, until).await }.boxed())
        .await?;
    Ok(Json(found))
}

/// What a search finds: the value that facts refer by, and what else the row says in text.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(super) struct Found {
    value: String,
    text: String,
}

/// `GET /page/entities/DIMENSION?search=…`: rows of a dimension with a text in one of their columns.
pub(super) async fn search(
    State(asked): State<Asked>,
    Path(domain): Path<String>,
    uri: Uri,
) -> Result<Json<Vec<Found>>, Refused> {
    let (dimension, by) = dimension(&asked, &domain)?;
    let search = Parameters::of(&uri).text("search").unwrap_or_default().to_owned();
    let sql = search_sql(dimension, by);
    let found = asked.postgres(move |connection| {
        sqlx::query_as(AssertSqlSafe(sql)).bind(search).bind(FOUND).fetch_all(connection).boxed()
    });
    Ok(Json(found.await?))
}

fn search_sql(dimension: &Domain, by: &Column) -> String {
    let is_text = |column: &&Column| matches!(column.cast, Cast::Text | Cast::TrimmedText) && !column.personal;
    let texts = dimension.columns.iter().filter(is_text).filter(|column| column.name != by.name);
    let texts: String = texts.map(|column| format!(", t.\"{}\"", column.name)).collect();
    format!(
        "SELECT t.\"{0}\"::text AS value, concat_ws(', ', NULL{texts}) AS text FROM \"{1}\" t
         WHERE t.\"{0}\" IS NOT NULL AND strpos(lower(concat_ws(' ', t.\"{0}\"{texts})), lower($1)) > 0
         ORDER BY lower(concat_ws(' ', t.\"{0}\"{texts})) <> lower($1), t.\"{0}\"::text <> $1, t.\"{0}\" LIMIT $2",
        by.name, dimension.table
    )
}

fn names(domain: &Domain) -> Vec<&'static str> {
    domain.columns.iter().map(|column| column.name).collect()
}

/// A page of facts. A day is never parted between two pages, as long as it does not fill one.
async fn facts(
    connection: &mut PgConnection,
    fact: &'static Domain,
    column: &'static Column,
    value: &str,
    until: Option<NaiveDate>,
) -> Result<Facts, sqlx::Error> {
    let date = fact.event_time.map_or("", |time| time.date);
    let found = rows(connection, fact, column, value, date, until, FACTS + 1).await?;
    let (rows, next) = whole_days(found, FACTS);
    Ok(Facts { domain: fact.name, columns: names(fact), rows, next })
}

/// The rows of whole days, of rows by date of which there is one more than fits, and the day to go on with.
fn whole_days<T>(mut found: Vec<(Option<NaiveDate>, T)>, fit: usize) -> (Vec<T>, Option<NaiveDate>) {
    let mut next = None;
    if let Some(Some(day)) = found.get(fit).map(|(day, _)| *day) {
        found.truncate(fit);
        next = Some(day);
        match found.iter().position(|(of, _)| *of == Some(day)) {
            // One day fills the page: its rest is left out.
            Some(0) => next = day.pred_opt(),
            Some(at) => found.truncate(at),
            None => {}
        }
    }
    (found.into_iter().map(|(_, row)| row).collect(), next)
}

/// The rows of a table in which a column has a value, by date where there is one, the newest first.
async fn rows(
    connection: &mut PgConnection,
    domain: &'static Domain,
    by: &Column,
    value: &str,
    date: &str,
    until: Option<NaiveDate>,
    limit: usize,
) -> Result<Vec<(Option<NaiveDate>, Shown)>, sqlx::Error> {
    let sql = rows_sql(domain, by, date, until.is_some());
    let found =
        sqlx::query(AssertSqlSafe(sql)).bind(value).bind(limit as i64).bind(until).fetch_all(connection).await?;
    let row = |row: sqlx::postgres::PgRow| {
        let cells = (0..domain.columns.len()).map(|at| row.try_get(at + 4)).collect::<Result<_, _>>()?;
        Ok((row.try_get(0)?, Shown { cells, file: row.try_get(1)?, key: row.try_get(2)?, row: row.try_get(3)? }))
    };
    found.into_iter().map(row).collect()
}

fn rows_sql(domain: &Domain, by: &Column, date: &str, is_until: bool) -> String {
    let cell = |column: &Column| match column.personal {
        true => format!("CASE WHEN t.\"{}\" IS NOT NULL THEN '{PERSONAL}' END", column.name),
        false => format!("t.\"{}\"::text", column.name),
    };
    let cells: Vec<String> = domain.columns.iter().map(cell).collect();
    let (day, until, order) = match date {
        "" => ("NULL::date".to_owned(), String::new(), String::new()),
        date => {
            let until = if is_until { format!(" AND t.\"{date}\" <= $3") } else { String::new() };
            (format!("t.\"{date}\"::date"), until, format!("ORDER BY t.\"{date}\" DESC"))
        }
    };
    let unused = if until.is_empty() { " AND ($3::date IS NULL)" } else { "" };
    format!(
        "SELECT {day}, t.src_object, o.key, t.src_row, {} FROM \"{}\" t
         LEFT JOIN pipeline.objects o ON o.id = t.src_object WHERE t.\"{}\" = $1::text::{}{until}{unused} {order} LIMIT $2",
        cells.join(", "),
        domain.table,
        by.name,
        by.cast.sql_type()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_not_parted_between_two_pages() {
        let day = |day| NaiveDate::from_ymd_opt(2025, 3, day);
        let page = |days: &[u32]| {
            let found = days.iter().copied().map(|it| (day(it), it)).collect();
            whole_days(found, 3)
        };
        assert_eq!(page(&[]), (vec![], None));
        assert_eq!(page(&[9, 8, 7]), (vec![9, 8, 7], None), "all there is");
        assert_eq!(page(&[9, 8, 7, 6]), (vec![9, 8, 7], day(6)));
        assert_eq!(page(&[9, 8, 7, 7]), (vec![9, 8], day(7)));
        assert_eq!(page(&[9, 9, 9, 9]), (vec![9, 9, 9], day(8)), "a day fills the page");
    }

    #[test]
    fn the_contracts_say_what_has_a_history_and_personal_values_are_not_read() {
        let pipeline = Pipeline::shipped();
        for (column, dimension) in by_column(pipeline) {
            let dimension = pipeline.domain(dimension).expect("a domain");
            let by = referred(pipeline, dimension).expect("referred to");
            assert!(pipeline.domains.iter().any(|fact| fact.key.first() == Some(&column)));
            assert!(rows_sql(dimension, by, "", false).contains(&format!("WHERE t.\"{}\" = $1", by.name)));
        }
        let columns = vec![
            Column::required("ward", Cast::Int),
            Column { personal: true, ..Column::optional("patient", Cast::Text) },
        ];
        let closed = Domain { columns: columns.leak(), table: "visits", ..*pipeline.domains[0] };
        let sql = rows_sql(&closed, &closed.columns[0], "day", true);
        assert!(sql.contains("'(personal)'") && !sql.contains("t.\"patient\"::text"), "{sql}");
        assert!(sql.ends_with("= $1::text::int4 AND t.\"day\" <= $3 ORDER BY t.\"day\" DESC LIMIT $2"), "{sql}");
        assert!(!search_sql(&closed, &closed.columns[0]).contains("patient"));
        assert!(check(&closed.columns[0], "7").is_ok() && check(&closed.columns[0], "7 OR 1=1").is_err());
    }
}
