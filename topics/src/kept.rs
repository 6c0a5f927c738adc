//! What a row keeps beside its columns, where its contract says so: the cells of new columns, and what was corrected.

use std::collections::BTreeMap;

use crate::judge::Notes;
use crate::message::OVERTAKEN;
use crate::{Domain, RawRow};

/// The column of what was said in columns that the domain does not have.
pub const EXTRA: &str = "extra";
/// The column of what was corrected.
pub const CORRECTIONS: &str = "corrections";

/// What a row keeps, as JSON; `None` is NULL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Cells of new columns by their headings: `{"note": "closed in the morning"}`.
    pub extra: Option<Box<str>>,
    /// Rules by the columns whose values they changed: `{"cases": "negative_to_zero"}`, a list where there are several. A row
    /// that took the place of earlier rows of its file says how many, under a name that no column has: `{"_overtaken": 23}`.
    pub corrections: Option<Box<str>>,
}

impl Kept {
    /// What a row that loads keeps.
    pub fn of(domain: &Domain, row: &RawRow<'_>, notes: &Notes) -> Kept {
        let extra = domain.on_new_column.keeps() && !row.new_cells.is_empty();
        let is_corrected = !notes.corrections.is_empty() || row.overtaken > 0;
        let corrections = (domain.keeps_corrections && is_corrected).then(|| {
            let mut corrections = by_column(&notes.corrections);
            if row.overtaken > 0 {
                corrections.insert(OVERTAKEN, row.overtaken.into());
            }
            json(&corrections)
        });
        Kept { extra: extra.then(|| json(&row.new_cells)), corrections }
    }

    /// What stands in one of the [columns](Domain::kept_columns).
    pub fn get(&self, column: &str) -> Option<&str> {
        let kept = if column == EXTRA { &self.extra } else { &self.corrections };
        kept.as_deref()
    }
}

fn json<T: serde::Serialize>(value: &T) -> Box<str> {
    serde_json::to_string(value).expect("text by text always serialises").into()
}

fn by_column<'n>(corrections: &[(&'n str, &'n str)]) -> BTreeMap<&'n str, serde_json::Value> {
    let mut rules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (column, rule) in corrections {
        rules.entry(column).or_default().push(rule);
    }
    let value = |rules: Vec<&str>| match rules.as_slice() {
        [rule] => (*rule).into(),
        rules => rules.into(),
    };
    rules.into_iter().map(|(column, rules)| (column, value(rules))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DOMAINS, NewColumn};

    #[test]
    fn a_row_keeps_what_its_contract_says_and_nothing_else() {
        let mut row = RawRow::decode(DOMAINS[2], b"{}").expect("a row");
        row.new_cells.insert("note".into(), "open \"late\"".into());
        let corrections = vec![("a", "fraction_cut"), ("b", "capped"), ("a", "negative_to_zero")];
        let notes = Notes { corrections, warnings: vec![("c", "odd")] };
        let extra = r#"{"note":"open \"late\""}"#;
        let corrected = r#"{"a":["fraction_cut","negative_to_zero"],"b":"capped"}"#;
        let cases = [
            (NewColumn::Ignore, false, [None, None], vec![]),
            (NewColumn::Keep, false, [Some(extra), None], vec![EXTRA]),
            (NewColumn::Add, false, [Some(extra), None], vec![EXTRA]),
            (NewColumn::Ignore, true, [None, Some(corrected)], vec![CORRECTIONS]),
            (NewColumn::Keep, true, [Some(extra), Some(corrected)], vec![EXTRA, CORRECTIONS]),
        ];
        for (on_new_column, keeps_corrections, expected, columns) in cases {
            let domain = Domain { on_new_column, keeps_corrections, ..*DOMAINS[2] };
            let kept = Kept::of(&domain, &row, &notes);
            assert_eq!([kept.get(EXTRA), kept.get(CORRECTIONS)], expected);
            assert_eq!(domain.kept_columns().map(|(name, _)| name).collect::<Vec<_>>(), columns);
        }
        let domain = Domain { on_new_column: NewColumn::Keep, keeps_corrections: true, ..*DOMAINS[2] };
        row.new_cells.clear();
        assert_eq!(Kept::of(&domain, &row, &Notes::default()), Kept::default());
        row.overtaken = 23;
        assert_eq!(Kept::of(&domain, &row, &Notes::default()).get(CORRECTIONS), Some(r#"{"_overtaken":23}"#));
        let both = r#"{"_overtaken":23,"a":["fraction_cut","negative_to_zero"],"b":"capped"}"#;
        assert_eq!(Kept::of(&domain, &row, &notes).get(CORRECTIONS), Some(both));
        let counting = Domain { keeps_corrections: false, ..domain };
        assert_eq!(Kept::of(&counting, &row, &Notes::default()), Kept::default());
    }
}
