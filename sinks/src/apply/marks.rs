//! Change marks: what a transaction leaves for the publisher, and how it wakes it.

use std::collections::BTreeSet;

use freshet_topics::Domain;
use freshet_topics::window::{Window, WindowKind};
use sqlx::{AssertSqlSafe, PgConnection};

use super::upsert::{Changed, Written};

/// The channel on which a publisher hears that there are change marks.
pub const MARKS_CHANNEL: &str = "freshet_marks";

/// What a transaction changed, each once.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    windows: BTreeSet<Window>,
    locations: BTreeSet<i32>,
}

impl Marks {
    /// What rows that were written changed.
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
            Changed::Locations(ids) => self.locations.extend(ids),
            Changed::Dates(dates) => {
                let dates: BTreeSet<_> = dates.iter().copied().collect();
                for kind in WindowKind::ALL {
                    self.windows.extend(dates.iter().map(|date| Window::containing(kind, *date)));
                }
            }
        }
    }

    /// Appends the marks, and wakes the publisher when the transaction commits.
    pub(crate) async fn append(&self, connection: &mut PgConnection, domain: &str) -> Result<(), sqlx::Error> {
        if self.windows.is_empty() && self.locations.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "WITH appended AS (
                 INSERT INTO pipeline.marks (domain, window_kind, window_start, location_id)
                 SELECT $1, u.kind, u.start, NULL::int4 FROM UNNEST($2::text[], $3::date[]) AS u (kind, start)
                 UNION ALL
                 SELECT $1, NULL, NULL, u.id FROM UNNEST($4::int4[]) AS u (id)
             )
             SELECT pg_notify($5, $1)",
        )
        .bind(domain)
        .bind(self.windows.iter().map(|window| window.kind.name().to_owned()).collect::<Vec<_>>())
        .bind(self.windows.iter().map(|window| window.start).collect::<Vec<_>>())
        .bind(self.locations.iter().copied().collect::<Vec<_>>())
        .bind(MARKS_CHANNEL)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Marks all that these tables of a domain hold, and wakes the publisher when the transaction commits.
pub(crate) async fn mark_everything(
    connection: &mut PgConnection,
    domain: &Domain,
    tables: &[String],
) -> Result<(), sqlx::Error> {
    let sql = everything(domain, tables);
    sqlx::query(AssertSqlSafe(sql)).bind(domain.name).execute(&mut *connection).await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind(MARKS_CHANNEL).bind(domain.name).execute(connection).await?;
    Ok(())
}

/// The statement that marks the windows of all facts in these tables, or all locations.
fn everything(domain: &Domain, tables: &[String]) -> String {
    let union = |select: &dyn Fn(&String) -> String| tables.iter().map(select).collect::<Vec<_>>().join(" UNION ");
    match &domain.event_time {
        Some(event_time) => {
            let (date, observed) = (event_time.date, event_time.observed_sql(""));
            let kinds = WindowKind::ALL.map(|kind| format!("('{}')", kind.name())).join(", ");
            format!(
                "INSERT INTO pipeline.marks (domain, window_kind, window_start)
                 SELECT DISTINCT $1, k.kind, date_trunc(k.kind, d.date)::date
                 FROM ({}) AS d CROSS JOIN (VALUES {kinds}) AS k (kind)",
                union(&|table| format!("SELECT DISTINCT \"{date}\" AS date FROM {table} WHERE {observed}"))
            )
        }
        None => {
            let id = domain.partition_by;
            format!(
                "INSERT INTO pipeline.marks (domain, location_id) SELECT $1, b.id FROM ({}) AS b",
                union(&|table| format!("SELECT \"{id}\" AS id FROM {table}"))
            )
        }
    }
}
