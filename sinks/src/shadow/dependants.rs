//! Objects that depend on the live table and that a swap would leave behind.
//!
//! A view over the table is changed to read the new one: it keeps its identity, and with it its grants and everything
//! that depends on it. Grants on the table are copied. Anything else that Postgres ties to a table's identity (foreign
//! keys, triggers, materialised views, publications, policies, …) is left to the operator: the swap refuses and names
//! it.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::Refused;
use crate::output_views;
use crate::postgres::{execute, grants};
use crate::tables::{self, Redeclared};

/// A view that reads the table.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct View {
    /// Quoted for SQL.
    name: String,
    /// `security_barrier=true` and the like.
    options: Option<String>,
    definition: String,
    /// Quoted for SQL.
    owner: String,
    /// Whether it is freshet's view of an output.
    is_output: bool,
}

impl View {
    /// Its name, quoted for SQL.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The views that read the table directly; views over them are not touched.
pub(super) async fn views(connection: &mut PgConnection, table: &str) -> Result<Vec<View>, sqlx::Error> {
    let is_output = output_views::sql::is_ours("obj_description(v.oid, 'pg_class')");
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT DISTINCT v.oid::regclass::text AS name, array_to_string(v.reloptions, ', ') AS options,
            pg_get_viewdef(v.oid) AS definition, quote_ident(pg_get_userbyid(v.relowner)) AS owner,
            {is_output} AS is_output
         FROM pg_depend d
         JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
         JOIN pg_class v ON v.oid = r.ev_class
         WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::regclass AND v.relkind = 'v'
         ORDER BY 1"
    )))
    .bind(table)
    .fetch_all(connection)
    .await
}

/// What would make the swap refuse for certain, as long as it is there.
pub(super) async fn in_the_way(
    connection: &mut PgConnection,
    table: &str,
    shadow: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let mut in_the_way: Vec<String> = left_behind(connection, table)
        .await?
        .into_iter()
        .map(|it| format!("{it} depends on the table: drop it, and recreate it after the swap"))
        .collect();
    let theirs: Vec<View> = views(connection, table).await?.into_iter().filter(|view| !view.is_output).collect();
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT attname::text FROM pg_attribute WHERE attrelid = $1::regclass AND NOT attisdropped")
            .bind(shadow)
            .fetch_all(&mut *connection)
            .await?;
    for view in tables::views::over(connection, table).await? {
        let gone: Vec<&str> = view.uses.iter().filter(|it| !columns.contains(it)).map(String::as_str).collect();
        if !gone.is_empty() && theirs.iter().any(|it| it.name == view.name) {
            let (name, gone) = (&view.name, gone.join(", "));
            in_the_way
                .push(format!("view {name} uses {gone}, which is no longer declared: drop it (DROP VIEW {name})"));
        }
    }
    Ok(in_the_way)
}

/// Locks a view only. LOCK TABLE would also lock the tables that it reads and make their readers wait.
pub(super) async fn lock(connection: &mut PgConnection, view: &View) -> Result<(), sqlx::Error> {
    execute(connection, &format!("ALTER VIEW {} OWNER TO {}", view.name, view.owner)).await
}

/// The result for a view.
pub(super) enum Renewed {
    /// It reads the table that has the name now.
    Reads,
    /// It was dropped: the query of its output does not work with that table, for this reason.
    Dropped(String),
}

/// Makes a view read the table that has the name now. If a column has another type there, or is gone, a view of an
/// output is recreated from `before`, or dropped (a setup creates it again). Other views are left to the operator.
pub(super) async fn renew(
    connection: &mut PgConnection,
    view: &View,
    before: &[tables::views::View],
) -> Result<Renewed, Refused> {
    let options = view.options.as_ref().map(|options| format!(" WITH ({options})")).unwrap_or_default();
    let replace = format!("CREATE OR REPLACE VIEW {}{options} AS {}", view.name, view.definition);
    let Some(mut said) = refused(connection, &[replace]).await? else { return Ok(Renewed::Reads) };
    let before = before.iter().find(|it| view.is_output && it.name == view.name);
    if let Some(before) = before {
        let drop = format!("DROP VIEW {}", view.name);
        let anew: Vec<String> = [drop.clone()].into_iter().chain(before.made_again()).collect();
        let Some(wrong) = refused(connection, &anew).await? else { return Ok(Renewed::Reads) };
        match refused(connection, &[drop]).await? {
            None => return Ok(Renewed::Dropped(wrong)),
            Some(depended_on) => said = depended_on,
        }
    }
    Err(Refused::View { view: view.name.clone(), said })
}

/// Executes all of the statements or none of them; returns Postgres' error.
async fn refused(connection: &mut PgConnection, statements: &[String]) -> Result<Option<String>, sqlx::Error> {
    match all_or_none(connection, statements).await {
        Ok(()) => Ok(None),
        Err(error) => match error.as_database_error() {
            Some(said) => Ok(Some(said.message().to_owned())),
            None => Err(error),
        },
    }
}

async fn all_or_none(connection: &mut PgConnection, statements: &[String]) -> Result<(), sqlx::Error> {
    let mut attempt = connection.begin().await?;
    for sql in statements {
        if let Err(error) = execute(&mut attempt, sql).await {
            attempt.rollback().await?;
            return Err(error);
        }
    }
    attempt.commit().await
}

/// The statements that give the shadow the owner, the comment and the grants of the live table, and no others: default
/// privileges in the schema of shadows are for a shadow only.
pub(super) async fn allowed(
    connection: &mut PgConnection,
    table: &str,
    shadow: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let mut statements: Vec<String> = sqlx::query_scalar(
        "SELECT format('ALTER TABLE %s OWNER TO %I', $2, pg_get_userbyid(relowner))
         FROM pg_class WHERE oid = $1::regclass
         UNION ALL
         SELECT format('COMMENT ON TABLE %s IS %L', $2, d.description) FROM pg_description d
         WHERE d.objoid = $1::regclass AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
            AND obj_description($2::regclass, 'pg_class') IS NULL",
    )
    .bind(table)
    .bind(shadow)
    .fetch_all(&mut *connection)
    .await?;
    let revokes: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', $2,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
         FROM pg_class s CROSS JOIN LATERAL aclexplode(s.relacl) AS a
         WHERE s.oid = $2::regclass
            AND a.grantee NOT IN (s.relowner, (SELECT relowner FROM pg_class WHERE oid = $1::regclass))",
    )
    .bind(table)
    .bind(shadow)
    .fetch_all(&mut *connection)
    .await?;
    statements.extend(revokes);
    statements.extend(grants(connection, table, shadow).await?);
    Ok(statements)
}

/// The sequences of serial columns of the live table, each with its column, quoted for SQL: defaults of the shadow use
/// them. An identity has another sequence in the shadow.
pub(super) async fn serials(
    connection: &mut PgConnection,
    table: &str,
    shadow: &str,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT s.oid::regclass::text, quote_ident(a.attname)
         FROM pg_depend d
         JOIN pg_class s ON d.classid = 'pg_class'::regclass AND s.oid = d.objid AND s.relkind = 'S'
         JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         JOIN pg_attribute n ON n.attrelid = $2::regclass AND n.attname = a.attname AND NOT n.attisdropped
         WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::regclass AND d.deptype = 'a'
         ORDER BY 1",
    )
    .bind(table)
    .bind(shadow)
    .fetch_all(connection)
    .await
}

/// What a swap would leave behind, as Postgres describes it.
pub(super) async fn left_behind(connection: &mut PgConnection, table: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH me AS (SELECT c.oid, c.reltype, c.relrowsecurity FROM pg_class c WHERE c.oid = $1::regclass)
         -- Objects that others made on the table or on its row type; plain views are renewed, and the shadow has the same
         -- generated columns and CHECK constraints.
         SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
         FROM me JOIN pg_depend d ON d.deptype = 'n' AND (
            (d.refclassid = 'pg_class'::regclass AND d.refobjid = me.oid)
            OR (d.refclassid = 'pg_type'::regclass AND d.refobjid = me.reltype))
         LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
         LEFT JOIN pg_class v ON v.oid = r.ev_class
         LEFT JOIN pg_attrdef g ON d.classid = 'pg_attrdef'::regclass AND g.oid = d.objid
         LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.contype = 'c'
         WHERE v.relkind IS DISTINCT FROM 'v' AND g.adrelid IS DISTINCT FROM me.oid
            AND k.conrelid IS DISTINCT FROM me.oid
         UNION
         SELECT pg_describe_object('pg_trigger'::regclass, t.oid, 0) FROM me JOIN pg_trigger t ON t.tgrelid = me.oid
         WHERE NOT t.tgisinternal
         UNION
         SELECT pg_describe_object('pg_constraint'::regclass, f.oid, 0) FROM me
         JOIN pg_constraint f ON f.contype = 'f' AND me.oid IN (f.conrelid, f.confrelid)
         UNION
         SELECT pg_describe_object('pg_rewrite'::regclass, r.oid, 0) FROM me JOIN pg_rewrite r ON r.ev_class = me.oid
         UNION
         SELECT pg_describe_object('pg_publication_rel'::regclass, p.oid, 0) FROM me
         JOIN pg_publication_rel p ON p.prrelid = me.oid
         UNION
         SELECT 'publication ' || p.pubname FROM pg_publication p WHERE p.puballtables
         UNION
         SELECT 'publication ' || p.pubname FROM me JOIN pg_class c ON c.oid = me.oid
         JOIN pg_publication_namespace n ON n.pnnspid = c.relnamespace JOIN pg_publication p ON p.oid = n.pnpubid
         UNION
         SELECT 'table ' || i.inhrelid::regclass || ' inherits' FROM me JOIN pg_inherits i ON i.inhparent = me.oid
         UNION
         SELECT 'inheritance from ' || i.inhparent::regclass FROM me JOIN pg_inherits i ON i.inhrelid = me.oid
         UNION
         SELECT 'row level security' FROM me
         WHERE me.relrowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = me.oid)
         UNION
         SELECT 'grants on column ' || a.attname FROM me
         JOIN pg_attribute a ON a.attrelid = me.oid AND a.attacl IS NOT NULL
         ORDER BY 1",
    )
    .bind(table)
    .fetch_all(connection)
    .await
}

/// How the two tables differ in columns, indexes and CHECK constraints: the live one was altered since. What is declared
/// differently from the live table does not count, nor do the indexes and constraints of such columns, nor whether a
/// column that is never NULL may be.
pub(super) async fn made_otherwise(
    connection: &mut PgConnection,
    table: &str,
    shadow: &str,
    redeclared: &Redeclared,
    never_null: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH made AS (
            SELECT a.attrelid AS of, format('column %s %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attnotnull AND a.attname <> ALL ($5) THEN ' not null' ELSE '' END) AS what
            FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL ($3)
            UNION ALL
            SELECT i.indrelid, format('index %s on (%s)', c.relname,
                (SELECT string_agg(pg_get_indexdef(i.indexrelid, n, true), ', ') FROM generate_series(1, i.indnatts) n))
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE c.relname <> ALL ($4) AND NOT EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = ANY ($3))
            UNION ALL
            SELECT k.conrelid, format('constraint %s %s', k.conname, pg_get_constraintdef(k.oid))
            FROM pg_constraint k WHERE k.contype = 'c'
                AND NOT EXISTS (SELECT FROM pg_attribute a
                    WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) AND a.attname = ANY ($3))
         ),
         live AS (SELECT what FROM made WHERE of = $1::regclass),
         shadow AS (SELECT what FROM made WHERE of = $2::regclass)
         (SELECT 'only the live table has ' || what FROM (TABLE live EXCEPT TABLE shadow) AS l
          UNION ALL
          SELECT 'only the shadow has ' || what FROM (TABLE shadow EXCEPT TABLE live) AS s)
         ORDER BY 1",
    )
    .bind(table)
    .bind(shadow)
    .bind(redeclared.columns().map(String::as_str).collect::<Vec<_>>())
    .bind(&redeclared.indexes)
    .bind(never_null)
    .fetch_all(connection)
    .await
}
