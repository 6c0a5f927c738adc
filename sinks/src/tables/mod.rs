//! The domains' tables: created, widened and adopted as the declarations require, and never narrowed or emptied.
//!
//! [`look`] compares what each domain's declaration requires ([`wanted`]) with what Postgres' catalog has ([`found`]),
//! and returns a [`Plan`]: the steps with their descriptions and statements; what is not done, with the command that
//! does it; and what prevents the setup. The comparison is a pure function ([`plan`]). [`apply()`] brings the schema of
//! the pipeline up to date and carries out the whole plan in one transaction: it succeeds as a whole, or nothing has
//! changed.
//!
//! | the table | is |
//! |---|---|
//! | does not exist | created |
//! | is freshet's (it has lineage) | extended: missing columns added, types widened, comments set |
//! | is somebody else's: no lineage | adopted: its rows get the lineage 0, so that a row of any file wins |
//!
//! In an adopted table, if rows have the same key, the one with the greatest `id` stays; the others are moved to
//! `pipeline.taken_over_duplicates`. All of its windows are marked, so that the outputs contain its rows. Foreign keys,
//! views, indexes and columns added by others stay.
//!
//! The last setup is recorded ([`record`]), so that a role notices if it runs another pipeline, and a later setup
//! notices which declarations have changed.

mod apply;
mod duplicates;
mod found;
mod plan;
pub mod record;
pub(crate) mod views;
mod wanted;

use freshet_topics::Domain;
use freshet_topics::pipeline::output::Output;
use sqlx::PgConnection;

pub use apply::{SetupError, apply, look};
pub use plan::{Plan, Step, TablePlan, What};

pub(crate) use apply::{look_at_empty, redeclared};
pub(crate) use plan::Redeclared;

/// What is to be set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The schema of the domains' tables (`postgres.schema`).
    pub schema: &'a str,
    /// The domains of the pipeline.
    pub domains: &'static [&'static Domain],
    /// The outputs of the pipeline.
    pub outputs: &'static [&'static Output],
    /// The identity of the pipeline.
    pub pipeline: Identity<'a>,
    /// Days after which a window is closed, for the outputs' views (`metrics.allowed_lateness_days`).
    pub allowed_lateness_days: u32,
}

/// Which pipeline it is, and which version of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// A hash of everything that it declares.
    pub hash: &'a str,
}

/// A table in a schema, quoted for SQL.
pub(crate) fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(table))
}

/// A name, quoted for SQL.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text, quoted for SQL.
pub(crate) fn literal(text: &str) -> String {
    match text.contains('\\') {
        true => format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

/// Names, quoted and separated by commas.
pub fn identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(identifier).collect::<Vec<_>>().join(", ")
}

/// The size in bytes of each of these tables without its indexes, in their order; 0 for one that does not exist. A table in
/// partitions has the size of its partitions.
///
/// # Errors
/// If Postgres does not answer.
pub async fn sizes_bytes(connection: &mut PgConnection, tables: &[&str]) -> Result<Vec<i64>, sqlx::Error> {
    // pg_partition_tree has no rows for a table without partitions.
    sqlx::query_scalar(
        "SELECT coalesce(greatest(pg_relation_size(t.oid), (
            SELECT sum(pg_relation_size(p.relid))::int8 FROM pg_partition_tree(t.oid) AS p)), 0)
         FROM (SELECT to_regclass(quote_ident(u.name)) AS oid, u.ord
               FROM UNNEST($1::text[]) WITH ORDINALITY AS u (name, ord)) AS t
         ORDER BY t.ord",
    )
    .bind(tables)
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(qualified("public", "health_data"), "\"public\".\"health_data\"");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        for (text, expected) in [("it's", "'it''s'"), ("a\\'b", "E'a\\\\''b'")] {
            assert_eq!(literal(text), expected);
        }
    }
}
