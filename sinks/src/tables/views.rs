//! Views over a table: Postgres cannot alter the type of a column that a view uses, so such views are dropped and
//! recreated with their definition, options, owner, grants and comments.

use std::collections::BTreeSet;

use sqlx::PgConnection;

/// A view over the table, or over another view over it.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct View {
    /// Its name, quoted for SQL.
    pub name: String,
    /// The longest path to the table, in views: the view with the longest path is dropped first.
    pub depth: i32,
    /// The columns of the table that it uses directly.
    pub uses: Vec<String>,
    /// The views that it uses.
    pub over: Vec<String>,
    pub definition: String,
    /// The statements that restore what the definition does not contain.
    pub restore: Vec<String>,
    /// Its properties that would be lost, in words.
    pub odd: Vec<String>,
}

impl View {
    /// The statements that recreate it.
    pub(crate) fn made_again(&self) -> Vec<String> {
        [self.definition.clone()].into_iter().chain(self.restore.iter().cloned()).collect()
    }
}

/// The views that prevent altering these columns, each after the views that it uses.
pub(super) fn in_the_way<'a>(views: &'a [View], columns: &[&str]) -> Vec<&'a View> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut sorted: Vec<&View> = views.iter().collect();
    sorted.sort_by_key(|view| (view.depth, &view.name));
    // A view comes after all views that it uses, so one pass finds all.
    for view in &sorted {
        let uses_column = view.uses.iter().any(|column| columns.contains(&column.as_str()));
        if uses_column || view.over.iter().any(|name| names.contains(name.as_str())) {
            names.insert(&view.name);
        }
    }
    sorted.retain(|view| names.contains(view.name.as_str()));
    sorted
}

/// Reads the views over a table.
pub(crate) async fn over(connection: &mut PgConnection, table: &str) -> Result<Vec<View>, sqlx::Error> {
    sqlx::query_as(
        "WITH RECURSIVE edges AS (
            SELECT DISTINCT r.ev_class AS view, d.refobjid AS base, d.refobjsubid AS number
            FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
         ),
         reached AS (
            SELECT view, 1 AS depth FROM edges WHERE base = $1::regclass
            UNION
            SELECT e.view, r.depth + 1 FROM edges e JOIN reached r ON e.base = r.view
         ),
         views AS (SELECT view AS oid, max(depth) AS depth FROM reached GROUP BY view)
         SELECT w.oid::regclass::text AS name, w.depth,
            array(SELECT a.attname::text FROM edges e JOIN pg_attribute a ON a.attrelid = e.base AND a.attnum = e.number
                WHERE e.view = w.oid AND e.base = $1::regclass) AS uses,
            array(SELECT DISTINCT e.base::regclass::text FROM edges e JOIN views b ON b.oid = e.base
                WHERE e.view = w.oid) AS over,
            format('CREATE VIEW %s%s AS %s', w.oid::regclass, ' WITH (' || array_to_string(v.reloptions, ', ') || ')',
                pg_get_viewdef(w.oid)) AS definition,
            array(
                SELECT format('ALTER VIEW %s OWNER TO %I', w.oid::regclass, pg_get_userbyid(v.relowner))
                UNION ALL
                SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, w.oid::regclass,
                    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
                FROM aclexplode(v.relacl) AS a WHERE a.grantee <> v.relowner
                UNION ALL
                SELECT format('COMMENT ON VIEW %s IS %L', w.oid::regclass, d.description)
                FROM pg_description d WHERE d.objoid = w.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
                UNION ALL
                SELECT format('COMMENT ON COLUMN %s.%I IS %L', w.oid::regclass, a.attname, d.description)
                FROM pg_description d JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
                WHERE d.objoid = w.oid AND d.classoid = 'pg_class'::regclass
            ) AS restore,
            array(
                SELECT 'is materialised' WHERE v.relkind = 'm'
                UNION ALL
                SELECT 'has a trigger' WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = w.oid)
                UNION ALL
                SELECT 'has a rule' WHERE EXISTS (
                    SELECT FROM pg_rewrite r WHERE r.ev_class = w.oid AND r.rulename <> '_RETURN')
                UNION ALL
                SELECT 'has grants or defaults of columns' WHERE EXISTS (
                    SELECT FROM pg_attribute a WHERE a.attrelid = w.oid AND (a.attacl IS NOT NULL OR a.atthasdef))
            ) AS odd
         FROM views w JOIN pg_class v ON v.oid = w.oid
         ORDER BY w.depth, 1",
    )
    .bind(table)
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_use_an_altered_column_and_those_over_them_stand_in_the_way() {
        let view = |name: &str, depth, uses: &[&str], over: &[&str]| View {
            name: name.into(),
            depth,
            uses: uses.iter().map(|&it| it.into()).collect(),
            over: over.iter().map(|&it| it.into()).collect(),
            ..View::default()
        };
        let views = [
            view("report", 3, &[], &["totals"]),
            view("dates", 1, &["date"], &[]),
            view("ids", 1, &["id", "date"], &[]),
            view("totals", 2, &["date"], &["ids"]),
        ];
        let names = |columns: &[&str]| in_the_way(&views, columns).iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&["id"]), ["ids", "totals", "report"]);
        assert_eq!(names(&["date"]), ["dates", "ids", "totals", "report"]);
        assert_eq!(names(&["name"]), Vec::<String>::new());
    }
}
