//! How a table differs from its declaration, in ways that its shadow does not keep.

use super::new_columns;
use super::types::{Fit, fit};
use crate::apply::ids::Ids;
use crate::tables::found::{Found, FoundColumn, Index};
use crate::tables::wanted::{ID, OBJECT, Wanted};
use crate::tables::{identifier, qualified};

/// What a shadow has otherwise than its table, because the contract now declares it so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Redeclared {
    /// The statements that setup never executes on a table with rows. Setup's own plan makes the rest.
    pub(crate) sql: Vec<String>,
    /// The columns that are new.
    pub(crate) added: Vec<String>,
    /// The columns that have another type.
    pub(crate) retyped: Vec<String>,
    /// The columns that may be NULL now, are no longer generated, or are gone.
    pub(crate) others: Vec<String>,
    /// The indexes that are new, on other columns, or gone.
    pub(crate) indexes: Vec<String>,
    /// Whether a row of the one cannot be found in the other by the key.
    pub(crate) is_keyed_otherwise: bool,
    /// Where the `id`s of the shadow's rows come from.
    pub(crate) ids: Ids,
    /// Why the shadow would refuse rows that the declaration accepts, with what to do.
    pub(crate) blocked: Vec<String>,
}

impl Redeclared {
    /// Whether there is nothing.
    pub(crate) fn is_nothing(&self) -> bool {
        self.columns().next().is_none() && self.indexes.is_empty()
    }

    /// All columns that are otherwise.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &String> {
        self.added.iter().chain(&self.retyped).chain(&self.others)
    }

    /// Whether the table's values of a column can be read as declared.
    pub(crate) fn is_the_same(&self, column: &str) -> bool {
        !self.added.iter().chain(&self.retyped).any(|name| name == column)
    }
}

/// Finds it, for a table in this schema.
pub(in crate::tables) fn redeclared(schema: &str, wanted: &Wanted, found: &Found, formerly: &[String]) -> Redeclared {
    let mut redeclared = Redeclared {
        sql: Vec::new(),
        added: Vec::new(),
        retyped: Vec::new(),
        others: Vec::new(),
        indexes: Vec::new(),
        is_keyed_otherwise: !found.is_unique(&wanted.key) || !has_comparable_key(wanted, found),
        ids: ids(wanted, found),
        blocked: Vec::new(),
    };
    let alter = |what: String| format!("ALTER TABLE {} {what}", qualified(schema, wanted.table));
    for column in &wanted.columns {
        let (name, type_name) = (column.name.to_owned(), &column.type_name);
        let Some(there) = found.column(&name) else {
            redeclared.added.push(name);
            continue;
        };
        if there.type_name == *type_name {
            let is_primary = |index: &Index| index.is_primary && covers(index, &[column.name]);
            let is_nullable = there.not_null && !column.not_null && !found.indexes.iter().any(is_primary);
            redeclared.others.extend((is_nullable || new_columns::is_added(there)).then_some(name));
            continue;
        }
        // Setup's own plan recreates a generated column.
        if !new_columns::is_added(there) {
            // A default of the old type would not fit; the table is empty.
            let column = format!("ALTER COLUMN {}", identifier(&name));
            let retype = format!("{column} DROP DEFAULT, {column} TYPE {type_name} USING NULL::{type_name}");
            redeclared.sql.push(alter(retype));
        }
        redeclared.retyped.push(name);
    }
    let is_declared = |there: &FoundColumn| {
        wanted.columns.iter().any(|column| column.name == there.name)
            || (wanted.has_surrogate_id && there.name == ID && there.is_identity)
    };
    let gone: Vec<&FoundColumn> =
        found.columns.iter().filter(|there| formerly.contains(&there.name) && !is_declared(there)).collect();
    redeclared.sql.extend(gone.iter().map(|there| alter(format!("DROP COLUMN {}", identifier(&there.name)))));
    redeclared.others.extend(gone.iter().map(|there| there.name.clone()));
    redeclared.blocked = blocked(wanted, found, &gone);
    let has_other_columns = redeclared.columns().next().is_some();
    redeclared.indexes = indexes(wanted, found, has_other_columns);
    redeclared
}

/// The names of freshet's own indexes that setup would make, change or drop. Where key and columns are as declared, a shadow
/// has the indexes of its table, whatever they are.
fn indexes(wanted: &Wanted, found: &Found, has_other_columns: bool) -> Vec<String> {
    let begins_with = |column: &str| found.indexes.iter().any(|index| begins_with(index, column));
    let mut indexes = Vec::new();
    if !found.is_unique(&wanted.key) || found.former_key(wanted).is_some() {
        indexes.push(wanted.key_name());
    } else if !has_other_columns {
        return indexes;
    }
    if wanted.date.is_some_and(|date| !begins_with(date)) {
        indexes.push(wanted.date_index_name());
    }
    if wanted.by_object != begins_with(OBJECT) {
        indexes.push(wanted.object_index_name());
    }
    indexes
}

fn begins_with(index: &Index, column: &str) -> bool {
    index.columns.first().is_some_and(|first| first == column)
}

/// Whether Postgres can compare the table's values of the key with declared ones.
fn has_comparable_key(wanted: &Wanted, found: &Found) -> bool {
    wanted.key.iter().all(|name| {
        let declared = wanted.columns.iter().find(|column| column.name == *name);
        let pair = declared.zip(found.column(name));
        pair.is_some_and(|(declared, there)| fit(&there.type_name, &declared.type_name) != Fit::Other)
    })
}

/// Where the `id`s of the shadow's rows come from.
///
/// A live row that moves from one new key to another would give its id to both, hence the rule of the second line: what
/// is part of the former key never changes in a row.
///
/// | the declared key | the table's `id` | the ids of the shadow |
/// |---|---|---|
/// | is the table's | | those of the keys |
/// | only has columns of the former key, and an index begins with one that is never NULL | numbers the rows | those of the keys: of several rows, that of one |
/// | anything else, or of types that cannot be compared | numbers the rows | the next ones |
/// | anything else | is the domain's own column | given by the shadow itself |
fn ids(wanted: &Wanted, found: &Found) -> Ids {
    let is_comparable = has_comparable_key(wanted, found);
    if !wanted.has_surrogate_id {
        return Ids::Unset;
    }
    if found.is_unique(&wanted.key) && is_comparable {
        return Ids::OfKey;
    }
    if !found.column(ID).is_some_and(|id| id.is_identity || id.sequence.is_some()) {
        return Ids::Unset;
    }
    let is_coarser = found.former_key(wanted).is_some_and(|former| covers(former, &wanted.key));
    // A column that may be NULL is not looked up in an index.
    let mut looked_up = wanted.columns.iter().filter(|column| column.not_null && wanted.key.contains(&column.name));
    let is_indexed = looked_up.any(|column| found.indexes.iter().any(|index| begins_with(index, column.name)));
    match is_comparable && is_coarser && is_indexed {
        true => Ids::OfKey,
        false => Ids::Next,
    }
}

/// Whether an index is on all of these columns, and perhaps on more.
fn covers(index: &Index, columns: &[&str]) -> bool {
    columns.iter().all(|name| index.columns.iter().any(|column| column == name))
}

/// Unique indexes of a table whose key is declared otherwise, of which one must be the former key: it has not the name that
/// setup gives to keys. They refuse rows that differ in the key.
pub(super) fn stricter<'f>(wanted: &Wanted, found: &'f Found) -> impl Iterator<Item = &'f Index> {
    let is_known = found.is_unique(&wanted.key) || found.former_key(wanted).is_some();
    let is_stricter = move |index: &&Index| {
        let is_of_id = wanted.has_surrogate_id && covers(index, &[ID]);
        !is_known && index.is_unique && !is_of_id && !covers(index, &wanted.key)
    };
    found.indexes.iter().filter(is_stricter)
}

/// What is in the way of a shadow, which has all indexes of its table, except those of columns that are gone.
fn blocked(wanted: &Wanted, found: &Found, gone: &[&FoundColumn]) -> Vec<String> {
    let is_gone = |name: &String| gone.iter().any(|column| column.name == *name);
    let stays = |index: &&Index| !index.columns.iter().any(is_gone);
    let said = |index: &Index| {
        format!(
            "unique index {} on ({}) would refuse rows that differ in the key ({}): stop the processors of {}, drop \
             it, and run this again; after the swap, start them with the new contract",
            index.name,
            index.columns.join(", "),
            wanted.key.join(", "),
            wanted.domain
        )
    };
    stricter(wanted, found).filter(stays).map(said).collect()
}
