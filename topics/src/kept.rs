//! What a row stores besides its columns if its contract asks for it: the cells of unknown columns, and its
//! corrections.

use std::collections::BTreeMap;

use crate::columns::ByRow;
use crate::judge::Note;
use crate::message::OVERTAKEN;

/// The column for cells of columns that the domain does not have, as JSON by heading
/// (`{"note": "closed in the morning"}`).
pub const EXTRA: &str = "extra";
/// The column for corrections, as JSON: for each changed column the rule that changed it
/// (`{"cases": "negative_to_zero"}`, a list where there are several). A row that replaced earlier rows of its file has
/// their number, under a name that no column has: `{"_overtaken": 23}`.
pub const CORRECTIONS: &str = "corrections";

/// Spells what was corrected in each row, for its column [`CORRECTIONS`]. `overtaken` is how many earlier rows of its
/// file a row replaced.
pub(crate) fn corrections(notes: &ByRow<Note>, overtaken: &ByRow<u32>, mut keep: impl FnMut(usize, &str)) {
    for (row, notes) in notes.rows() {
        keep(row, &json(notes, overtaken.first_of(row)));
    }
    for (row, count) in overtaken.iter().filter(|(row, _)| notes.of(*row).is_empty()) {
        keep(*row, &json(&[], Some(count)));
    }
}

fn json(notes: &[(usize, Note)], overtaken: Option<&u32>) -> String {
    let mut rules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (_, note) in notes {
        rules.entry(note.column).or_default().push(note.rule);
    }
    let value = |rules: Vec<&str>| match rules.as_slice() {
        [rule] => serde_json::Value::from(*rule),
        rules => rules.into(),
    };
    let mut by_column: BTreeMap<&str, serde_json::Value> =
        rules.into_iter().map(|(column, rules)| (column, value(rules))).collect();
    by_column.extend(overtaken.map(|count| (OVERTAKEN, (*count).into())));
    serde_json::to_string(&by_column).expect("text by text always serialises")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge;
    use crate::{DOMAINS, Domain, NewColumn, RawRow};

    #[test]
    fn a_row_keeps_what_its_contract_says_and_nothing_else() {
        let message = br#"{"location_id":"1","date":"2025-9-5","dengue_cases":"-3.5","_new":{"note":"open \"late\""}}"#;
        let extra = r#"{"note":"open \"late\""}"#;
        let corrected = r#"{"date":"date_normalised","dengue_cases":["fraction_cut","negative_to_zero"]}"#;
        let cases = [
            (NewColumn::Ignore, false, [None, None], vec![]),
            (NewColumn::Keep, false, [Some(extra), None], vec![EXTRA]),
            (NewColumn::Add, false, [Some(extra), None], vec![EXTRA]),
            (NewColumn::Ignore, true, [None, Some(corrected)], vec![CORRECTIONS]),
            (NewColumn::Keep, true, [Some(extra), Some(corrected)], vec![EXTRA, CORRECTIONS]),
        ];
        for (on_new_column, keeps_corrections, expected, columns) in cases {
            let domain = Domain { on_new_column, keeps_corrections, ..*DOMAINS[2] };
            let domain: &'static Domain = Box::leak(Box::new(domain));
            let judged = judge::row(domain, &RawRow::decode(domain, message).expect("a row"));
            assert_eq!([EXTRA, CORRECTIONS].map(|column| judged.kept(domain, column, 0)), expected);
            assert_eq!(domain.kept_columns().map(|(name, _)| name).collect::<Vec<_>>(), columns);
            let clean = br#"{"location_id":"1","date":"2025-09-05"}"#;
            let judged = judge::row(domain, &RawRow::decode(domain, clean).expect("a row"));
            assert_eq!([EXTRA, CORRECTIONS].map(|column| judged.kept(domain, column, 0)), [None, None]);
        }
        let keeping = Domain { on_new_column: NewColumn::Ignore, keeps_corrections: true, ..*DOMAINS[2] };
        let keeping: &'static Domain = Box::leak(Box::new(keeping));
        let both = r#"{"_overtaken":23,"date":"date_normalised"}"#;
        for (date, expected) in [("2025-09-05", r#"{"_overtaken":23}"#), ("2025-9-5", both)] {
            let message = format!(r#"{{"location_id":"1","date":"{date}","_overtaken":23}}"#);
            let judged = judge::row(keeping, &RawRow::decode(keeping, message.as_bytes()).expect("a row"));
            assert_eq!(judged.kept(keeping, CORRECTIONS, 0), Some(expected));
            assert!(judged.corrections.iter().all(|(_, note)| note.rule != OVERTAKEN), "it is counted per file");
        }
    }
}
