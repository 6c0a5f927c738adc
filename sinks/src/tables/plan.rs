//! Makes the plan for a table from its declaration and its present state. Pure: nothing here talks to Postgres.

mod columns;
mod keys;
mod new_columns;
mod redeclared;
mod types;

use std::fmt;

use super::found::Found;
use super::record::Recording;
use super::wanted::{ID, LINEAGE, OBJECT, Wanted};
use super::{identifier, identifiers, literal, qualified};
use crate::output_state::DefinitionChange;
use crate::output_views::ViewPlan;

/// Percent of a page that new rows fill. The rest is for corrected rows: a corrected row that fits on its page needs no
/// new index entries.
const FILLFACTOR: u8 = 90;

pub(crate) use redeclared::Redeclared;
pub(super) use redeclared::redeclared;

/// All that a setup would do to the database, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether the schema of the tables is to be created.
    pub makes_schema: bool,
    /// Each domain's table, in the order of the domains.
    pub tables: Vec<TablePlan>,
    /// Changes to the definitions of outputs.
    pub outputs: Vec<DefinitionChange>,
    /// Changes to the views of outputs.
    pub views: Vec<ViewPlan>,
    /// The change to the record of the pipeline.
    pub recording: Recording,
}

/// The plan for one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePlan {
    /// The domain.
    pub domain: &'static str,
    /// The table's name, without its schema.
    pub table: &'static str,
    /// The table before the setup.
    pub what: What,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Harmless differences from the declaration that stay.
    pub kept: Vec<String>,
    /// Parts of the declaration that setup does not apply, each with the command that does.
    pub not_done: Vec<String>,
    /// Problems that prevent the whole setup, each with what to do.
    pub blocked: Vec<String>,
}

/// What a table is before setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It does not exist.
    Missing,
    /// It is freshet's.
    Own,
    /// It exists, with this many rows without lineage.
    Foreign {
        /// Its rows.
        rows: i64,
    },
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its description, as an order: `add column extra jsonb`.
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
    /// Whether something prevents the whole setup.
    pub fn is_blocked(&self) -> bool {
        !self.recording.blocked.is_empty() || self.tables.iter().any(|table| !table.blocked.is_empty())
    }
}

impl TablePlan {
    /// Whether the table has rows that freshet did not write.
    pub fn takes_over(&self) -> bool {
        matches!(self.what, What::Foreign { .. })
    }

    /// Whether a step needs an exclusive lock on the table.
    pub(crate) fn alters(&self) -> bool {
        self.steps.iter().any(Step::alters)
    }
}

impl Step {
    /// Whether it does more than set comments, which need no exclusive lock.
    fn alters(&self) -> bool {
        self.sql.iter().any(|sql| !sql.starts_with("COMMENT "))
    }
}

/// Compares. `formerly` are the columns of earlier declarations.
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
        Some(found) => planner.change(schema, found, formerly),
    }
    planner.plan
}

/// `1 row`, `12 rows`.
fn counted(number: i64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// The command that rebuilds a table as declared from what the topic holds.
fn into_shadow(domain: &str) -> String {
    format!("`freshet replay {domain} --into shadow --compare --swap`")
}

struct Planner<'a> {
    wanted: &'a Wanted,
    /// The table's name, quoted for SQL.
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

    /// Whether the key is also the primary key: the domain has an `id` of its own, which is the key.
    fn is_keyed_by_id(&self) -> bool {
        !self.wanted.has_surrogate_id && self.wanted.key == [ID]
    }

    /// Plans the creation of a missing table.
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
        let make = format!("CREATE TABLE {} ({}) WITH (fillfactor = {FILLFACTOR})", self.name, lines.join(", "));
        let columns: Vec<&str> = wanted.columns.iter().map(|column| column.name).collect();
        let said = format!("create the table: {}, key {}", columns.join(", "), self.key());
        let indexed: Vec<&str> = wanted.date.into_iter().chain(wanted.by_object.then_some(OBJECT)).collect();
        let said = if indexed.is_empty() { said } else { format!("{said}, index on {}", indexed.join(" and on ")) };
        self.step(said, [Some(make), self.date_index(), self.object_index()].into_iter().flatten());
        self.comments(&Found::default());
    }

    /// Plans the changes of an existing table.
    fn change(&mut self, schema: &str, found: &'a Found, formerly: &[String]) {
        if !found.is_table() {
            let said =
                format!("the existing relation is not a plain table (pg_class.relkind is {}): rename it", found.kind);
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
                Some(there) if new_columns::is_added(there) => self.declare(column, there),
                Some(there) => self.fit(column, there, found),
            }
        }
        self.others(found, formerly);
        self.new_columns(found);
        self.lineage(found);
        self.unique(found);
        self.by_object(found, schema);
        self.around_views(found);
        self.comments(found);
        if self.plan.takes_over() {
            self.step("mark all windows of its rows, so that the outputs include them", []);
        }
        if !found.may_alter && !self.plan.steps.is_empty() {
            let said = format!("it belongs to {0}: run setup as {0}, or as a member of that role", found.owner);
            self.plan.blocked.push(said);
        }
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
