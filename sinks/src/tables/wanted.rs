//! The table that a domain's declaration requires.

use freshet_topics::{Column, Domain, NewColumn, Overwrite};

use crate::apply::upsert::has_surrogate_id;

/// A table as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub domain: &'static str,
    pub table: &'static str,
    pub comment: Option<String>,
    /// Whether there is an `id` besides the domain's own columns.
    pub has_surrogate_id: bool,
    /// The domain's own columns, in order.
    pub columns: Vec<WantedColumn>,
    pub key: Vec<&'static str>,
    /// Whether headings found in `extra` get columns of their own.
    pub adds_columns: bool,
    /// The column of the event date, which is indexed.
    pub date: Option<&'static str>,
    /// Whether rows are looked up by their object: if an overwrite replaces rows.
    pub by_object: bool,
}

/// A column as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedColumn {
    pub name: &'static str,
    /// Its type as in `pg_type`, with the digits of a `numeric(6,2)`.
    pub type_name: String,
    /// Whether the column of a new table forbids NULL.
    pub not_null: bool,
    pub comment: Option<String>,
}

/// The columns that say where a row comes from: name, type as in `pg_type`, meaning. They are last.
pub(super) const LINEAGE: [(&str, &str, &str); 5] = [
    (
        "src_object",
        "int8",
        "The file that the row came from: pipeline.objects.id. 0: no file; the row was here before freshet.",
    ),
    ("src_gen", "int4", "Generation: which reading of the file."),
    ("src_row", "int8", "Which row of the file, from 0."),
    ("src_ord", "int8", "The position of the file in the order of its domain: the row with the greatest wins."),
    ("value_ord", "int8", "src_ord of the row that last changed a value."),
];

/// The column of the object that a row came from.
pub(super) const OBJECT: &str = "src_object";

/// The `id` of a table whose declaration has none.
pub(super) const ID: &str = "id";
pub(super) const ID_COMMENT: &str = "Number of the row, without meaning; it stays with the key.";

impl Wanted {
    pub(super) fn of(domain: &'static Domain) -> Wanted {
        Wanted {
            domain: domain.name,
            table: domain.table,
            comment: non_empty(domain.description),
            has_surrogate_id: has_surrogate_id(domain),
            columns: domain
                .columns
                .iter()
                .map(|column| WantedColumn::of(domain, column))
                .chain(domain.kept_columns().map(|(name, comment)| WantedColumn::kept(name, comment)))
                .collect(),
            key: domain.key.to_vec(),
            adds_columns: domain.on_new_column == NewColumn::Add,
            date: domain.event_time.as_ref().map(|event_time| event_time.date),
            by_object: domain.on_overwrite == Overwrite::Replace,
        }
    }

    /// The name of the unique constraint of the key.
    pub(super) fn key_name(&self) -> String {
        format!("{}_key", self.table)
    }

    /// The name of the index on the date.
    pub(super) fn date_index_name(&self) -> String {
        format!("{}_date", self.table)
    }

    /// The name of the index on the object.
    pub(super) fn object_index_name(&self) -> String {
        format!("{}_{OBJECT}", self.table)
    }

    /// Every column that freshet owns, with its comment.
    pub(super) fn comments(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let id = self.has_surrogate_id.then_some((ID, ID_COMMENT));
        let own = self.columns.iter().filter_map(|column| Some((column.name, column.comment.as_deref()?)));
        id.into_iter().chain(own).chain(LINEAGE.map(|(name, _, comment)| (name, comment)))
    }
}

impl WantedColumn {
    fn of(domain: &Domain, column: &Column) -> WantedColumn {
        WantedColumn {
            name: column.name,
            type_name: column.cast.sql_type(),
            not_null: domain.never_null(column),
            comment: non_empty(column.description),
        }
    }

    /// A column that is stored besides the values of a row.
    fn kept(name: &'static str, comment: &str) -> WantedColumn {
        WantedColumn { name, type_name: "jsonb".to_owned(), not_null: false, comment: non_empty(comment) }
    }
}

/// Its description, if there is one.
fn non_empty(description: &str) -> Option<String> {
    (!description.is_empty()).then(|| description.to_owned())
}
