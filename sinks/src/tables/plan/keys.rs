//! The key of a table, the index on its date, and the index that finds the rows that an overwrite replaces.

use super::redeclared::stricter;
use super::{Planner, What, counted, into_shadow};
use crate::tables::found::{Found, Index};
use crate::tables::wanted::OBJECT;
use crate::tables::{duplicates, identifier, identifiers, qualified};

impl Planner<'_> {
    pub(super) fn key_constraint(&self) -> String {
        let (name, key) = (identifier(&self.wanted.key_name()), identifiers(self.wanted.key.iter().copied()));
        format!("CONSTRAINT {name} UNIQUE NULLS NOT DISTINCT ({key})")
    }

    pub(super) fn date_index(&self) -> Option<String> {
        let date = self.wanted.date?;
        let name = identifier(&self.wanted.date_index_name());
        Some(format!("CREATE INDEX {name} ON {} ({})", self.name, identifier(date)))
    }

    /// The key, after duplicates have been moved away, and the index on the date.
    pub(super) fn unique(&mut self, found: &Found) {
        let wanted = self.wanted;
        if !found.is_unique(&wanted.key) {
            self.set_aside(found);
            self.named_like_the_key(found);
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
        } else if let (What::Own, Some(former)) = (self.plan.what, found.former_key(wanted)) {
            let said = format!(
                "drop constraint {} UNIQUE ({}): the key is {}",
                former.name,
                former.columns.join(", "),
                self.key()
            );
            let sql = self.alter(&format!("DROP CONSTRAINT IF EXISTS {}", identifier(&former.name)));
            self.step(said, [sql]);
        }
        let Some(date) = wanted.date else { return };
        if !found.indexes.iter().any(|index| index.columns.first().is_some_and(|first| first == date)) {
            let index = self.date_index();
            self.step(format!("add index {}_date on ({date})", wanted.table), index);
        }
    }

    /// Indexes of others that setup leaves: one that has the name of the key, and those that refuse rows of the key.
    fn named_like_the_key(&mut self, found: &Found) {
        let name = self.wanted.key_name();
        let is_theirs = |index: &&Index| index.name == name && (!index.is_constraint || index.is_primary);
        if found.indexes.iter().any(|index| is_theirs(&index)) && !self.is_keyed_by_id() {
            self.plan.blocked.push(format!(
                "index {name} has the name that the key gets: rename it (ALTER INDEX {} RENAME TO …)",
                identifier(&name)
            ));
        }
        if self.plan.what == What::Own {
            let kept = stricter(self.wanted, found).map(|index| {
                let (name, columns) = (&index.name, index.columns.join(", "));
                format!("unique index {name} on ({columns}) refuses rows that differ in the key: drop it if it is not to hold")
            });
            self.plan.kept.extend(kept.collect::<Vec<_>>());
        }
    }

    pub(super) fn object_index(&self) -> Option<String> {
        let name = identifier(&self.wanted.object_index_name());
        self.wanted.by_object.then(|| format!("CREATE INDEX {name} ON {} ({OBJECT})", self.name))
    }

    /// The index on the object, kept as long as the contract says `onOverwrite: replace`: other domains would pay for
    /// it with each row. An index that somebody else made stays.
    pub(super) fn by_object(&mut self, found: &Found, schema: &str) {
        let name = self.wanted.object_index_name();
        let begins_with_it = |columns: &[String]| columns.first().is_some_and(|first| first == OBJECT);
        let mut fitting = found.indexes.iter().filter(|index| begins_with_it(&index.columns));
        if self.wanted.by_object && fitting.clone().next().is_none() {
            let index = self.object_index();
            self.step(format!("add index {name} on ({OBJECT}), for onOverwrite: replace"), index);
        } else if !self.wanted.by_object && fitting.any(|index| index.name == name) {
            let drop = format!("DROP INDEX {}", qualified(schema, &name));
            self.step(format!("drop index {name}, which only onOverwrite: replace needs"), [drop]);
        }
    }

    pub(super) fn set_aside(&mut self, found: &Found) {
        let duplicates = &found.rows.duplicates;
        if duplicates.rows == 0 {
            return;
        }
        if !self.plan.takes_over() {
            let how = into_shadow(self.wanted.domain);
            self.plan.blocked.push(format!(
                "{} with the same key {} as another row, and setup removes no rows: {how} builds the table by the new \
                 key, while the roles run with the former contract; then run setup again, and restart them with this \
                 one",
                counted(duplicates.rows, "row"),
                self.key()
            ));
            return;
        }
        for (constraint, table, rows) in &duplicates.referred {
            self.plan.blocked.push(format!(
                "{} of {table} ({constraint}) refer to rows that would be removed as duplicates: let them refer to \
                 the greatest id of each key",
                counted(*rows, "row")
            ));
        }
        let said = format!(
            "move {} to pipeline.taken_over_duplicates, because a row with a greater id has the same key ({})",
            counted(duplicates.rows, "row"),
            counted(duplicates.keys, "key")
        );
        let sql = duplicates::set_aside(&self.name, self.wanted);
        self.step(said, [sql]);
    }
}
