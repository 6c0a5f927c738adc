//! The present state of an existing table, from Postgres' catalog and, if needed, from its rows.

use freshet_topics::kept::EXTRA;
use sqlx::{AssertSqlSafe, PgConnection};

use super::duplicates::{self, Duplicates};
use super::qualified;
use super::views::{self, View};
use super::wanted::{ID, LINEAGE, Wanted};

/// The most headings read: a sender with ever new headings must not fill the memory.
const HEADINGS_MAX: usize = 1_000;

/// A table as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Its kind in `pg_class`: `r` for a table.
    pub kind: String,
    pub owner: String,
    /// Whether this user may alter it.
    pub may_alter: bool,
    pub comment: Option<String>,
    pub columns: Vec<FoundColumn>,
    /// Indexes on plain columns that cover all rows.
    pub indexes: Vec<Index>,
    pub views: Vec<View>,
    /// Foreign keys of the table to others, as (name, other table).
    pub foreign_keys: Vec<(String, String)>,
    /// The headings with cells in `extra`, if they are to get columns.
    pub new_headings: Vec<String>,
    /// Whether it is known to have no rows.
    pub is_empty: bool,
    /// What a plan needs to know and only the rows can tell.
    pub rows: Rows,
}

/// A column as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct FoundColumn {
    pub name: String,
    /// Its type as in `pg_type`, with the digits of a `numeric(6,2)`: `int4`.
    pub type_name: String,
    /// Its type for people: `character varying(20)`.
    pub shown: String,
    pub not_null: bool,
    /// The default of the column, or the expression of a generated column.
    pub default_value: Option<String>,
    /// Whether Postgres generates it from other columns, so that nobody writes to it.
    pub is_generated: bool,
    pub is_identity: bool,
    /// Its own sequence (serial, identity), quoted for SQL.
    pub sequence: Option<String>,
    pub comment: Option<String>,
}

/// An index as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Index {
    pub name: String,
    pub columns: Vec<String>,
    pub is_unique: bool,
    pub is_primary: bool,
    /// Whether it belongs to a constraint, not only to a name.
    pub is_constraint: bool,
    pub nulls_not_distinct: bool,
}

/// What was counted in the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// Number of rows; counted only for a table without lineage.
    pub count: i64,
    /// Rows whose `id` is NULL, if it may be.
    pub without_id: i64,
    /// Rows that share a key, if no constraint forbids that.
    pub duplicates: Duplicates,
    /// Rows that share an `id` with another row, if no constraint forbids that.
    pub repeated_ids: i64,
}

impl Found {
    pub(super) fn column(&self, name: &str) -> Option<&FoundColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether its rows have their lineage.
    pub(super) fn has_lineage(&self) -> bool {
        LINEAGE.iter().all(|(name, ..)| self.column(name).is_some())
    }

    /// Whether a constraint or an index makes the key unique; NULL equals NULL.
    pub(super) fn is_unique(&self, key: &[&str]) -> bool {
        let never_null = || key.iter().all(|name| self.column(name).is_some_and(|column| column.not_null));
        let same = |columns: &[String]| {
            columns.len() == key.len() && key.iter().all(|name| columns.iter().any(|column| column == name))
        };
        self.indexes
            .iter()
            .any(|index| index.is_unique && same(&index.columns) && (index.nulls_not_distinct || never_null()))
    }

    /// The index of the constraint that setup made for another key than the declared one.
    pub(super) fn former_key(&self, wanted: &Wanted) -> Option<&Index> {
        let is_key = |columns: &[String]| {
            columns.len() == wanted.key.len() && columns.iter().all(|column| wanted.key.contains(&column.as_str()))
        };
        let name = wanted.key_name();
        let is_setups =
            |index: &&Index| index.is_unique && index.is_constraint && !index.is_primary && index.name == name;
        self.indexes.iter().filter(is_setups).find(|index| !is_key(&index.columns))
    }

    /// Whether it is a table that rows can be written to: a plain one, or one that its owner has partitioned.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "r" | "p")
    }

    pub(super) fn has_primary_key(&self) -> bool {
        self.indexes.iter().any(|index| index.is_primary)
    }
}

/// Reads the relation with the table's name, and what its rows tell; `None` if there is none.
pub(super) async fn read(
    connection: &mut PgConnection,
    schema: &str,
    wanted: &Wanted,
) -> Result<Option<Found>, sqlx::Error> {
    let Some(mut found) = catalog(connection, schema, wanted).await? else { return Ok(None) };
    let table = qualified(schema, wanted.table);
    if found.is_table() && wanted.adds_columns && found.column(EXTRA).is_some() {
        found.new_headings = new_headings(connection, &table).await?;
    }
    if found.is_table() {
        found.rows = rows(connection, &table, wanted, &found).await?;
        found.is_empty = !found.has_lineage() && found.rows.count == 0;
    }
    Ok(Some(found))
}

/// Reads what the catalog says of the relation with the table's name; `None` if there is none. Its rows are not read.
pub(super) async fn catalog(
    connection: &mut PgConnection,
    schema: &str,
    wanted: &Wanted,
) -> Result<Option<Found>, sqlx::Error> {
    let relation: Option<(String, String, bool, Option<String>)> = sqlx::query_as(
        "SELECT c.relkind::text, pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'),
            obj_description(c.oid, 'pg_class')
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(schema)
    .bind(wanted.table)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((kind, owner, may_alter, comment)) = relation else { return Ok(None) };
    let table = qualified(schema, wanted.table);
    let found = Found {
        kind,
        owner,
        may_alter,
        comment,
        columns: columns(connection, &table).await?,
        indexes: indexes(connection, &table).await?,
        views: views::over(connection, &table).await?,
        foreign_keys: foreign_keys(connection, &table).await?,
        new_headings: Vec::new(),
        is_empty: false,
        rows: Rows::default(),
    };
    Ok(Some(found))
}

async fn columns(connection: &mut PgConnection, table: &str) -> Result<Vec<FoundColumn>, sqlx::Error> {
    sqlx::query_as(
        "SELECT a.attname::text AS name, CASE WHEN t.typname = 'numeric' AND a.atttypmod >= 4
                THEN format('numeric(%s,%s)', (a.atttypmod - 4) >> 16, (a.atttypmod - 4) & 2047)
                ELSE t.typname END AS type_name,
            format_type(a.atttypid, a.atttypmod) AS shown,
            a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS default_value,
            a.attgenerated <> '' AS is_generated, a.attidentity <> '' AS is_identity, pg_get_serial_sequence($1, a.attname) AS sequence,
            col_description(a.attrelid, a.attnum) AS comment
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(table)
    .fetch_all(connection)
    .await
}

/// Those on plain columns, without a condition, that are always enforced.
async fn indexes(connection: &mut PgConnection, table: &str) -> Result<Vec<Index>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.relname::text AS name, array(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place)
                JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns,
            i.indisunique AND i.indimmediate AS is_unique, i.indisprimary AS is_primary,
            EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid) AS is_constraint,
            i.indnullsnotdistinct AS nulls_not_distinct
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = $1::regclass AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL",
    )
    .bind(table)
    .fetch_all(connection)
    .await
}

/// Every heading under which a row has a cell: one pass over the rows.
async fn new_headings(connection: &mut PgConnection, table: &str) -> Result<Vec<String>, sqlx::Error> {
    let sql = format!(
        "SELECT DISTINCT jsonb_object_keys(extra) FROM {table} WHERE jsonb_typeof(extra) = 'object' ORDER BY 1 LIMIT {HEADINGS_MAX}"
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await
}

async fn foreign_keys(connection: &mut PgConnection, table: &str) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT conname::text, confrelid::regclass::text FROM pg_constraint
         WHERE contype = 'f' AND conrelid = $1::regclass ORDER BY conname",
    )
    .bind(table)
    .fetch_all(connection)
    .await
}

/// Counts what the catalog does not know, with as few passes over the rows as the plan needs: none for a table that is
/// as wanted.
async fn rows(connection: &mut PgConnection, table: &str, wanted: &Wanted, found: &Found) -> Result<Rows, sqlx::Error> {
    let mut rows = Rows::default();
    if !found.has_lineage() {
        rows.count = number(connection, format!("SELECT count(*) FROM {table}")).await?;
    }
    if wanted.has_surrogate_id && found.column(ID).is_some_and(|id| !id.not_null) {
        rows.without_id = number(connection, format!("SELECT count(*) FROM {table} WHERE id IS NULL")).await?;
    }
    let key: Vec<&str> = wanted.key.iter().copied().filter(|name| found.column(name).is_some()).collect();
    if !key.is_empty() && !found.is_unique(&wanted.key) {
        rows.duplicates = duplicates::count(connection, table, &key, found.column(ID).is_some()).await?;
    }
    if wanted.has_surrogate_id && found.column(ID).is_some() && !found.has_primary_key() && !found.is_unique(&[ID]) {
        let sql = format!("SELECT count(id) - count(DISTINCT id) FROM {table}");
        rows.repeated_ids = number(connection, sql).await?;
    }
    Ok(rows)
}

async fn number(connection: &mut PgConnection, sql: String) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await
}
