//! Changes that setup never makes to a table with rows, but that an empty shadow may have from the start.

use crate::tables::found::Found;
use crate::tables::wanted::Wanted;
use crate::tables::{identifier, qualified};

/// The changes that an empty table needs to be as declared, and that setup does not make to a table with rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Narrowing {
    /// The statements.
    pub(crate) sql: Vec<String>,
    /// The columns that then have another type, or are gone.
    pub(crate) columns: Vec<String>,
}

/// Finds it.
pub(in crate::tables) fn narrowing(schema: &str, wanted: &Wanted, found: &Found, formerly: &[String]) -> Narrowing {
    let alter = |what: String| format!("ALTER TABLE {} {what}", qualified(schema, wanted.table));
    let mut narrowing = Narrowing::default();
    for column in &wanted.columns {
        let other = found.column(column.name).filter(|there| there.type_name != column.type_name);
        if other.is_some() {
            let (name, type_name) = (identifier(column.name), &column.type_name);
            // A default of the old type would not fit; the table is empty.
            let drop = format!("ALTER COLUMN {name} DROP DEFAULT");
            narrowing.sql.push(alter(format!("{drop}, ALTER COLUMN {name} TYPE {type_name} USING NULL::{type_name}")));
            narrowing.columns.push(column.name.to_owned());
        }
    }
    let is_declared = |name: &str| wanted.columns.iter().any(|column| column.name == name);
    let gone = found.columns.iter().map(|column| &column.name);
    for name in gone.filter(|name| formerly.contains(name) && !is_declared(name)) {
        narrowing.sql.push(alter(format!("DROP COLUMN {}", identifier(name))));
        narrowing.columns.push(name.clone());
    }
    narrowing
}
