//! What is to be done to a table, from what is wanted and what is there. Pure: nothing here talks to Postgres.

use std::fmt;

use super::duplicates;
use super::found::{Found, FoundColumn};
use super::record::Recording;
use super::views;
use super::wanted::{ID, LINEAGE, Wanted, WantedColumn};
use super::{identifier, identifiers, literal, qualified};

/// All that a setup would do to the database, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The schema of the tables is to be made.
    pub makes_schema: bool,
    /// Each domain's table, in the order of the domains.
    pub tables: Vec<TablePlan>,
    /// What becomes of the record of the pipeline.
    pub recording: Recording,
}

/// What becomes of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePlan {
    /// The domain.
    pub domain: &'static str,
    /// The table's name, without its schema.
    pub table: &'static str,
    /// What it is now.
    pub what: What,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What stays although the declaration has it otherwise, and harms nothing.
    pub kept: Vec<String>,
    /// What the declaration asks for and setup does not do, each with the command that does it.
    pub not_done: Vec<String>,
    /// What keeps setup from doing anything at all, each with what to do.
    pub blocked: Vec<String>,
}

/// What a table is before setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Not there.
    Missing,
    /// freshet's.
    Own,
    /// There, with as many rows that have no lineage.
    Foreign {
        /// Its rows.
        rows: i64,
    },
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// In words, as an order: `add column extra jsonb`.
    pub said: String,
    /// The statements.
    pub sql: Vec<String>,
}

impl Step {
    fn new(said: impl Into<String>, sql: impl IntoIterator<Item = String>) -> Step {
        Step { said: said.into(), sql: sql.into_iter().collect() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.said)
    }
}

impl Plan {
    /// Whether something stands in the way of all of it.
    pub fn is_blocked(&self) -> bool {
        !self.recording.blocked.is_empty() || self.tables.iter().any(|table| !table.blocked.is_empty())
    }
}

impl TablePlan {
    /// Whether the rows that are there are new to freshet.
    pub fn takes_over(&self) -> bool {
        matches!(self.what, What::Foreign { .. })
    }
}

/// Compares. `formerly` are the columns that earlier declarations had.
pub(super) fn plan(schema: &str, wanted: &Wanted, found: Option<&Found>, formerly: &[String]) -> TablePlan {
    let what = match found {
        None => What::Missing,
        Some(found) if found.has_lineage() => What::Own,
        Some(found) => What::Foreign { rows: found.rows.count },
    };
    let mut planner = Planner {
        wanted,
        name: qualified(schema, wanted.table),
        widened: Vec::new(),
        plan: TablePlan {
            domain: wanted.domain,
            table: wanted.table,
            what,
            steps: Vec::new(),
            kept: Vec::new(),
            not_done: Vec::new(),
            blocked: Vec::new(),
        },
    };
    match found {
        None => planner.make(),
        Some(found) => planner.change(found, formerly),
    }
    planner.plan
}

/// How the type of a column that is there fits the one that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Same,
    /// Postgres turns every value of it into the wanted one, and back.
    Widen,
    /// It holds every value of the wanted one, and takes them as they come.
    Wider,
    Other,
}

/// Compares two types, as `pg_type` names them.
///
/// | there | wanted | |
/// |---|---|---|
/// | int2 | int4, int8, float8 | widened |
/// | int4 | int8, float8 | widened |
/// | int2, int4, int8 | numeric that has room for their digits | widened |
/// | numeric | numeric of no fewer digits, before the point and after it | widened |
/// | float4 | float8 | widened |
/// | varchar | text | widened |
/// | int8 | int4 | wider |
/// | numeric | numeric of fewer digits | wider |
/// | another | another | other |
fn fit(found: &str, wanted: &str) -> Fit {
    match (found, wanted) {
        (found, wanted) if found == wanted => Fit::Same,
        ("int2", "int4" | "int8" | "float8")
        | ("int4", "int8" | "float8")
        | ("float4", "float8")
        | ("varchar", "text") => Fit::Widen,
        ("int8", "int4") => Fit::Wider,
        _ => match (digits(found), digits(wanted)) {
            (Some(found), Some(wanted)) if found.0 <= wanted.0 && found.1 <= wanted.1 => Fit::Widen,
            (Some(found), Some(wanted)) if found.0 >= wanted.0 && found.1 >= wanted.1 => Fit::Wider,
            _ => Fit::Other,
        },
    }
}

/// The digits that a number of this type has before the point and after it, where that is bounded in decimals.
fn digits(type_name: &str) -> Option<(u32, u32)> {
    match type_name {
        "int2" => Some((5, 0)),
        "int4" => Some((10, 0)),
        "int8" => Some((19, 0)),
        numeric => {
            let (precision, scale) = numeric.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
            let (precision, scale): (u32, u32) = (precision.parse().ok()?, scale.parse().ok()?);
            Some((precision.checked_sub(scale)?, scale))
        }
    }
}

/// A type as people name it.
fn shown(type_name: &str) -> &str {
    match type_name {
        "int4" => "integer",
        "int8" => "bigint",
        "float8" => "double precision",
        "bool" => "boolean",
        "timestamptz" => "timestamp with time zone",
        other => other,
    }
}

/// The command that makes a table as declared, of what the topic holds.
fn into_shadow(domain: &str) -> String {
    format!("`freshet replay {domain} --into shadow --compare --swap`")
}

struct Planner<'a> {
    wanted: &'a Wanted,
    /// As SQL names the table.
    name: String,
    /// Columns whose type is altered.
    widened: Vec<&'a str>,
    plan: TablePlan,
}

impl<'a> Planner<'a> {
    fn step(&mut self, said: impl Into<String>, sql: impl IntoIterator<Item = String>) {
        self.plan.steps.push(Step::new(said, sql));
    }

    fn alter(&self, what: &str) -> String {
        format!("ALTER TABLE {} {what}", self.name)
    }

    fn key(&self) -> String {
        format!("({})", self.wanted.key.join(", "))
    }

    /// Whether the key is the primary key too: the domain has an `id` of its own, and that is the key.
    fn is_keyed_by_id(&self) -> bool {
        !self.wanted.has_surrogate_id && self.wanted.key == [ID]
    }

    /// A table that is not there.
    fn make(&mut self) {
        let wanted = self.wanted;
        let mut lines = Vec::new();
        if wanted.has_surrogate_id {
            lines.push("id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY".to_owned());
        }
        lines.extend(wanted.columns.iter().map(|column| {
            let not_null = if column.not_null { " NOT NULL" } else { "" };
            format!("{} {}{not_null}", identifier(column.name), column.type_name)
        }));
        lines.extend(LINEAGE.map(|(name, type_name, _)| format!("{name} {type_name} NOT NULL")));
        lines.push(match self.is_keyed_by_id() {
            true => format!("PRIMARY KEY ({})", identifiers(wanted.key.iter().copied())),
            false => self.key_constraint(),
        });
        let make = format!("CREATE TABLE {} ({})", self.name, lines.join(", "));
        let columns: Vec<&str> = wanted.columns.iter().map(|column| column.name).collect();
        let said = format!("make the table: {}, key {}", columns.join(", "), self.key());
        let index = self.date_index();
        match (wanted.date, index) {
            (Some(date), Some(index)) => self.step(format!("{said}, index on {date}"), [make, index]),
            _ => self.step(said, [make]),
        }
        self.comments(&Found::default());
    }

    fn key_constraint(&self) -> String {
        let (name, key) = (identifier(&self.wanted.key_name()), identifiers(self.wanted.key.iter().copied()));
        format!("CONSTRAINT {name} UNIQUE NULLS NOT DISTINCT ({key})")
    }

    fn date_index(&self) -> Option<String> {
        let date = self.wanted.date?;
        let name = identifier(&format!("{}_date", self.wanted.table));
        Some(format!("CREATE INDEX {name} ON {} ({})", self.name, identifier(date)))
    }

    /// A table that is there.
    fn change(&mut self, found: &'a Found, formerly: &[String]) {
        if found.kind != "r" {
            let said = format!("what is there is no plain table (pg_class.relkind is {}): move it away", found.kind);
            self.plan.blocked.push(said);
            return;
        }
        if self.wanted.has_surrogate_id {
            self.id(found);
        }
        let wanted = self.wanted;
        for column in &wanted.columns {
            match found.column(column.name) {
                None => self.add(column, found),
                Some(there) => self.fit(column, there, found),
            }
        }
        self.others(found, formerly);
        self.lineage(found);
        self.unique(found);
        self.around_views(found);
        self.comments(found);
        if self.plan.takes_over() {
            self.step("mark all windows of its rows, so that the outputs are derived from them too", []);
        }
        if !found.may_alter && !self.plan.steps.is_empty() {
            let said = format!("it belongs to {0}: run setup as {0}, or as a member of that role", found.owner);
            self.plan.blocked.push(said);
        }
    }

    /// The `id` of a table whose domain has none: a bigint that numbers new rows by itself.
    fn id(&mut self, found: &'a Found) {
        let Some(id) = found.column(ID) else {
            let sql = self.alter("ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY");
            self.step("add column id, which numbers the rows", [sql]);
            self.primary_key(found);
            return;
        };
        match fit(&id.type_name, "int8") {
            Fit::Same => {}
            Fit::Widen => self.widen(ID, id, "int8"),
            Fit::Wider | Fit::Other => {
                self.plan.blocked.push(format!("its column id is {}, and must be bigint: rename it", id.shown));
                return;
            }
        }
        if found.rows.without_id > 0 {
            self.plan.blocked.push(format!("{} of its rows have no id: give them one", found.rows.without_id));
            return;
        }
        if !id.is_identity {
            self.identity(id);
        }
        self.primary_key(found);
    }

    /// Lets Postgres number new rows, after the greatest number that there is.
    fn identity(&mut self, id: &FoundColumn) {
        let mut sql = Vec::new();
        if id.default_value.is_some() {
            sql.push(self.alter("ALTER COLUMN id DROP DEFAULT"));
        }
        // Gone before the identity makes one of its own, which then has the same name.
        sql.extend(id.sequence.as_ref().map(|sequence| format!("DROP SEQUENCE {sequence}")));
        if !id.not_null {
            sql.push(self.alter("ALTER COLUMN id SET NOT NULL"));
        }
        // Whoever gives ids of his own may go on doing so.
        sql.push(self.alter("ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY"));
        sql.push(format!(
            "SELECT setval(pg_get_serial_sequence({}, 'id'), coalesce(max(id), 0) + 1, false) FROM {}",
            literal(&self.name),
            self.name
        ));
        let before = match &id.default_value {
            Some(default) => format!(", instead of by {default}"),
            None => String::new(),
        };
        self.step(format!("let column id number new rows (identity), from the greatest on{before}"), sql);
    }

    fn primary_key(&mut self, found: &Found) {
        match (found.has_primary_key(), found.rows.repeated_ids) {
            (true, _) => {}
            (false, 0) => {
                let sql = self.alter("ADD PRIMARY KEY (id)");
                self.step("add primary key (id)", [sql]);
            }
            (false, repeated) => {
                self.plan.kept.push(format!("no primary key is made: {repeated} rows share an id with another"));
            }
        }
    }

    fn add(&mut self, column: &WantedColumn, found: &Found) {
        let is_empty = self.plan.takes_over() && found.rows.count == 0;
        if column.not_null && self.wanted.key.contains(&column.name) && !is_empty {
            let domain = self.wanted.domain;
            self.plan.blocked.push(format!(
                "column {} is part of the key and is not there, so that its rows have none: add and fill it, or move the \
                 table away and load the files again (`freshet republish --all`, domain {domain})",
                column.name
            ));
            return;
        }
        let not_null = if column.not_null && is_empty { " NOT NULL" } else { "" };
        let sql = self.alter(&format!("ADD COLUMN {} {}{not_null}", identifier(column.name), column.type_name));
        self.step(format!("add column {} {}{not_null}", column.name, shown(&column.type_name)), [sql]);
        if column.not_null && !is_empty {
            self.plan.kept.push(format!("column {} may be NULL: the rows that are there have no value", column.name));
        }
    }

    fn fit(&mut self, column: &'a WantedColumn, there: &FoundColumn, found: &Found) {
        let (name, wanted) = (column.name, shown(&column.type_name));
        match fit(&there.type_name, &column.type_name) {
            Fit::Same => {}
            Fit::Widen => self.widen(name, there, &column.type_name),
            Fit::Wider => self.plan.kept.push(format!(
                "column {name} is {}, which holds every {wanted}; to narrow it: {}",
                there.shown,
                into_shadow(self.wanted.domain)
            )),
            Fit::Other if self.plan.takes_over() => self.plan.blocked.push(format!(
                "column {name} is {} and must be {wanted}: alter it (ALTER TABLE {} ALTER COLUMN {} TYPE {wanted} USING …), \
                 or declare it as it is",
                there.shown,
                self.name,
                identifier(name)
            )),
            Fit::Other => self.plan.not_done.push(format!(
                "column {name} stays {}, and is to be {wanted}: {} makes it so",
                there.shown,
                into_shadow(self.wanted.domain)
            )),
        }
        if !column.not_null && there.not_null {
            self.nullable(column, found);
        }
    }

    fn widen(&mut self, name: &'a str, there: &FoundColumn, type_name: &str) {
        let sql = self.alter(&format!("ALTER COLUMN {} TYPE {type_name}", identifier(name)));
        self.step(format!("widen column {name} from {} to {}", there.shown, shown(type_name)), [sql]);
        self.widened.push(name);
    }

    /// A column that the declaration does not require, and the table does.
    fn nullable(&mut self, column: &WantedColumn, found: &Found) {
        let name = column.name;
        match found.indexes.iter().any(|it| it.is_primary && it.columns.iter().any(|it| it == name)) {
            true => {
                self.plan.kept.push(format!("column {name} is in the primary key: a row without a value is rejected"));
            }
            false => self.drop_not_null(name, "the declaration does not require it"),
        }
    }

    fn drop_not_null(&mut self, name: &str, why: &str) {
        let sql = self.alter(&format!("ALTER COLUMN {} DROP NOT NULL", identifier(name)));
        self.step(format!("let column {name} be NULL: {why}"), [sql]);
    }

    /// What is there and is not in the declaration.
    fn others(&mut self, found: &Found, formerly: &[String]) {
        let is_declared = |name: &str| {
            self.wanted.columns.iter().any(|column| column.name == name)
                || LINEAGE.iter().any(|(lineage, ..)| *lineage == name)
                || (self.wanted.has_surrogate_id && name == ID)
        };
        let others: Vec<&FoundColumn> = found.columns.iter().filter(|column| !is_declared(&column.name)).collect();
        for column in others {
            let name = &column.name;
            if formerly.contains(name) {
                let how = into_shadow(self.wanted.domain);
                self.plan.not_done.push(format!("column {name} is not declared any more, and stays: {how} drops it"));
            }
            if column.not_null && column.default_value.is_none() && !column.is_identity {
                self.drop_not_null(name, "it is not declared, and new rows have no value for it");
            }
        }
        for (name, other) in &found.foreign_keys {
            self.plan.kept.push(format!(
                "foreign key {name} stays: a row that comes before what it refers to in {other} is rejected"
            ));
        }
        for index in found.indexes.iter().filter(|index| index.is_unique) {
            let is_key = |columns: &[&str]| {
                index.columns.len() == columns.len()
                    && columns.iter().all(|name| index.columns.iter().any(|it| it == name))
            };
            if !is_key(&self.wanted.key) && !is_key(&[ID]) && self.plan.takes_over() {
                let columns = index.columns.join(", ");
                self.plan.kept.push(format!("unique index on ({columns}) stays: rows that it forbids are rejected"));
            }
        }
    }

    fn lineage(&mut self, found: &Found) {
        let missing: Vec<_> = LINEAGE.iter().filter(|(name, ..)| found.column(name).is_none()).collect();
        if missing.is_empty() {
            return;
        }
        let names: Vec<&str> = missing.iter().map(|(name, ..)| *name).collect();
        // The default stays: what others insert has no lineage either.
        let adds: Vec<String> = missing
            .iter()
            .map(|(name, type_name, _)| format!("ADD COLUMN {name} {type_name} NOT NULL DEFAULT 0"))
            .collect();
        let said = format!(
            "add the lineage columns {}: 0 in the {} rows that are there, so that a row of any file wins over them",
            names.join(", "),
            found.rows.count
        );
        let sql = self.alter(&adds.join(", "));
        self.step(said, [sql]);
    }

    /// The key, after the rows that stand in its way are set aside; and the index on the date.
    fn unique(&mut self, found: &Found) {
        let wanted = self.wanted;
        if !found.is_unique(&wanted.key) {
            self.set_aside(found);
            let replaced = found.indexes.iter().any(|index| index.is_unique && !index.is_primary);
            let own = self.plan.what == What::Own && replaced && !self.is_keyed_by_id();
            let drop = format!("DROP CONSTRAINT IF EXISTS {}", identifier(&wanted.key_name()));
            let (said, sql) = match (self.is_keyed_by_id(), own) {
                (true, _) => (format!("add primary key {}", self.key()), "ADD PRIMARY KEY (id)".to_owned()),
                (false, true) => (
                    format!("change constraint {} to UNIQUE NULLS NOT DISTINCT {}", wanted.key_name(), self.key()),
                    format!("{drop}, ADD {}", self.key_constraint()),
                ),
                (false, false) => (
                    format!("add constraint {} UNIQUE NULLS NOT DISTINCT {}", wanted.key_name(), self.key()),
                    format!("ADD {}", self.key_constraint()),
                ),
            };
            let sql = self.alter(&sql);
            self.step(said, [sql]);
        }
        let Some(date) = wanted.date else { return };
        if !found.indexes.iter().any(|index| index.columns.first().is_some_and(|first| first == date)) {
            let index = self.date_index();
            self.step(format!("add index {}_date on ({date})", wanted.table), index);
        }
    }

    fn set_aside(&mut self, found: &Found) {
        let duplicates = &found.rows.duplicates;
        if duplicates.rows == 0 {
            return;
        }
        if !self.plan.takes_over() {
            let how = into_shadow(self.wanted.domain);
            self.plan.blocked.push(format!(
                "{} rows share the key {} with another, and setup takes none away: {how} makes the table by the new key",
                duplicates.rows,
                self.key()
            ));
            return;
        }
        for (constraint, table, rows) in &duplicates.referred {
            self.plan.blocked.push(format!(
                "{rows} rows of {table} refer by {constraint} to rows that share their key with a newer one and would go: \
                 let them refer to the newest id of the key"
            ));
        }
        let said = format!(
            "set aside {} rows that share a key with one of a greater id ({} keys): they are kept in \
             pipeline.taken_over_duplicates",
            duplicates.rows, duplicates.keys
        );
        let sql = duplicates::set_aside(&self.name, self.wanted);
        self.step(said, [sql]);
    }

    /// Takes the views away around what alters columns that they use.
    fn around_views(&mut self, found: &Found) {
        let in_the_way = views::in_the_way(&found.views, &self.widened);
        if in_the_way.is_empty() {
            return;
        }
        for view in &in_the_way {
            if !view.odd.is_empty() {
                self.plan.blocked.push(format!(
                    "view {} uses a column whose type changes ({}), and {}: drop it, and make it again afterwards",
                    view.name,
                    self.widened.join(", "),
                    view.odd.join(" and ")
                ));
            }
        }
        let names: Vec<&str> = in_the_way.iter().map(|view| view.name.as_str()).collect();
        let drops = in_the_way.iter().rev().map(|view| format!("DROP VIEW {}", view.name)).collect::<Vec<_>>();
        let said = format!("take away, until the columns are altered: view {}", names.join(", "));
        self.plan.steps.insert(0, Step::new(said, drops));
        let made = in_the_way.iter().flat_map(|view| view.made_again()).collect::<Vec<_>>();
        self.step(format!("make again, as it was: view {}", names.join(", ")), made);
    }

    fn comments(&mut self, found: &Found) {
        let wanted = self.wanted;
        let mut sql = Vec::new();
        let mut named = Vec::new();
        if let Some(comment) = wanted.comment.as_ref().filter(|it| found.comment.as_ref() != Some(it)) {
            sql.push(format!("COMMENT ON TABLE {} IS {}", self.name, literal(comment)));
            named.push("the table");
        }
        for (column, comment) in wanted.comments() {
            if found.column(column).and_then(|there| there.comment.as_deref()) != Some(comment) {
                let (column_name, text) = (identifier(column), literal(comment));
                sql.push(format!("COMMENT ON COLUMN {}.{column_name} IS {text}", self.name));
                named.push(column);
            }
        }
        if !sql.is_empty() {
            self.step(format!("set the comments of {}", named.join(", ")), sql);
        }
    }
}

#[cfg(test)]
mod tests;
