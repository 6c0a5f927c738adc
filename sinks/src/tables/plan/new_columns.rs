//! Columns that files have but the contract does not (`onNewColumn: add`): text columns generated from `extra`.
//!
//! Postgres generates the column: no role writes to it. So existing rows, rows of a replay and rows of a shadow all
//! have it, and it cannot differ from what the file said.

use freshet_topics::kept::{CORRECTIONS, EXTRA};

use super::Planner;
use crate::tables::found::{Found, FoundColumn};
use crate::tables::wanted::{ID, LINEAGE, WantedColumn};
use crate::tables::{identifier, literal};

/// The most columns that a table gets this way: a sender with its own heading in each file must not fill the table.
const ADDED_MAX: usize = 32;
/// Postgres cuts identifiers at this length.
const NAME_BYTES_MAX: usize = 63;

impl<'a> Planner<'a> {
    /// Adds a column for each heading in `extra` that has none yet.
    pub(super) fn new_columns(&mut self, found: &Found) {
        let is_declared = |name: &str| self.wanted.columns.iter().any(|column| column.name == name);
        let mut columns: Vec<String> = found.columns.iter().map(|column| column.name.clone()).collect();
        columns.extend(LINEAGE.map(|(name, ..)| name).into_iter().chain([ID, EXTRA, CORRECTIONS]).map(str::to_owned));
        let mut added = found.columns.iter().filter(|column| is_added(column)).count();
        for heading in found.new_headings.iter().filter(|heading| !has_column(heading, found)) {
            let stays = |why: &str| format!("the files' column {heading:?} stays in {EXTRA} only: {why}");
            match name_of(heading) {
                None => self.plan.kept.push(stays("no column name can be derived from it")),
                // Cells that rows have kept from before the column was declared.
                Some(name) if is_declared(&name) && ![EXTRA, CORRECTIONS].contains(&name.as_str()) => {}
                Some(name) if columns.contains(&name) => {
                    self.plan.kept.push(stays(&format!("the table has a column {name} already")));
                }
                Some(_) if added >= ADDED_MAX => {
                    self.plan.kept.push(stays(&format!("at most {ADDED_MAX} are added: declare it")));
                }
                Some(name) => {
                    let (quoted, made_of) = (identifier(&name), expression(heading));
                    let add = self.alter(&format!("ADD COLUMN {quoted} text GENERATED ALWAYS AS {made_of} STORED"));
                    let said = format!("Values of the files' column {heading:?}, which the contract does not have.");
                    let comment = format!("COMMENT ON COLUMN {}.{quoted} IS {}", self.name, literal(&said));
                    self.step(
                        format!("add column {name} text, with the values of the files' column {heading:?}"),
                        [add, comment],
                    );
                    columns.push(name);
                    added += 1;
                }
            }
        }
    }

    /// Turns a column that was added this way into one of the contract's, which now has it. Its cells stay in `extra`
    /// until a replay reads them.
    pub(super) fn declare(&mut self, column: &WantedColumn, there: &FoundColumn) {
        let (name, quoted) = (column.name, identifier(column.name));
        if there.type_name == column.type_name {
            let sql = self.alter(&format!("ALTER COLUMN {quoted} DROP EXPRESSION"));
            return self.step(format!("turn column {name} into a stored column: it is declared now"), [sql]);
        }
        let sql = [
            self.alter(&format!("DROP COLUMN {quoted}")),
            self.alter(&format!("ADD COLUMN {quoted} {}", column.type_name)),
        ];
        self.step(format!("recreate column {name} as {}: it is declared now", column.type_name), sql);
        self.plan.kept.push(format!(
            "column {name} is NULL in existing rows, and the files' values stay in {EXTRA}, until `freshet replay {} \
             --from beginning` fills it, if their heading is the column's name or a synonym",
            self.wanted.domain
        ));
    }
}

/// Whether the column was generated from `extra`.
pub(super) fn is_added(column: &FoundColumn) -> bool {
    let prefix = format!("({EXTRA} ->> ");
    column.is_generated && column.default_value.as_ref().is_some_and(|it| it.starts_with(&prefix))
}

fn has_column(heading: &str, found: &Found) -> bool {
    let made_of = expression(heading);
    found.columns.iter().any(|column| column.is_generated && column.default_value.as_ref() == Some(&made_of))
}

/// The expression of the column, in Postgres' own form.
fn expression(heading: &str) -> String {
    format!("({EXTRA} ->> {}::text)", literal(heading))
}

/// The name of the column for a heading: lower case, with `_` for everything that is not a letter or digit.
///
/// | heading | name |
/// |---|---|
/// | Note | note |
/// | ICU beds (free) | icu_beds_free |
/// | 2025 target | _2025_target |
/// | – | none |
fn name_of(heading: &str) -> Option<String> {
    let mut name = String::new();
    for character in heading.to_lowercase().chars() {
        let is_word = character.is_alphanumeric();
        let next = if is_word { character } else { '_' };
        if (is_word || !name.ends_with('_')) && name.len() + next.len_utf8() <= NAME_BYTES_MAX {
            name.push(next);
        }
    }
    let name = name.trim_matches('_');
    let name = if name.starts_with(char::is_numeric) { format!("_{name}") } else { name.to_owned() };
    (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_becomes_a_name() {
        let long = "a".repeat(80);
        let cases = [
            ("Note", Some("note")),
            ("ICU beds (free)", Some("icu_beds_free")),
            ("Município", Some("município")),
            ("2025 target", Some("_2025_target")),
            ("a\"; DROP TABLE t; --", Some("a_drop_table_t")),
            ("–", None),
            (long.as_str(), Some(&long[..63])),
        ];
        for (heading, name) in cases {
            assert_eq!(name_of(heading).as_deref(), name, "{heading}");
        }
    }
}
