//! Guesses which columns identify the rows of a sample.

use std::collections::HashSet;

use super::look::{Column, Kind};

/// Rows that are compared: enough to see that columns repeat, and few enough to compare many combinations.
pub(super) const ROWS_MAX: usize = 50_000;
/// Columns that are combined at most; keys of more are rare, and each one multiplies the work.
const COLUMNS_MAX: usize = 4;
/// Columns that are considered at all, the likeliest first.
const CANDIDATES_MAX: usize = 8;

/// How likely a column is part of a key; the least is the likeliest. None: it is no part of one.
///
/// | column | |
/// |---|---|
/// | without gaps, called id, code or key, or ending so | 0 |
/// | a date without gaps | 1 |
/// | text without gaps | 2 |
/// | true or false, or a whole number, without gaps | 3 |
/// | with gaps, or with fractions | none |
fn likelihood(column: &Column) -> Option<u8> {
    let named =
        ["id", "code", "key"].iter().any(|word| column.name == *word || column.name.ends_with(&format!("_{word}")));
    match column.kind {
        _ if column.empty > 0 => None,
        Kind::Unknown | Kind::Float8 => None,
        _ if named => Some(0),
        Kind::Date => Some(1),
        Kind::Text => Some(2),
        Kind::Int4 | Kind::Int8 | Kind::Bool => Some(3),
    }
}

/// The fewest and likeliest columns that together are different in each row, in the order of the file. `hashes` are the
/// cells' by column.
pub(super) fn guess(columns: &[Column], hashes: &[Vec<u64>]) -> Option<Vec<usize>> {
    let mut candidates: Vec<(u8, usize)> =
        columns.iter().enumerate().filter_map(|(index, column)| Some((likelihood(column)?, index))).collect();
    candidates.sort_unstable();
    let candidates: Vec<usize> = candidates.into_iter().map(|(_, index)| index).take(CANDIDATES_MAX).collect();
    // A count that happens to differ in each row of a sample is no key: by itself only an id is one.
    let is_key = |combination: &[usize]| {
        let likely = combination.iter().any(|&index| likelihood(&columns[index]).is_some_and(|it| it <= 2));
        let alone = combination.len() > 1 || likelihood(&columns[combination[0]]) == Some(0);
        likely && alone && are_unique(combination, hashes)
    };
    let found = (1..=COLUMNS_MAX.min(candidates.len()))
        .find_map(|size| combinations(&candidates, size).into_iter().find(|combination| is_key(combination)))?;
    let mut key = found;
    key.sort_unstable();
    Some(key)
}

fn are_unique(columns: &[usize], hashes: &[Vec<u64>]) -> bool {
    let rows = hashes[columns[0]].len();
    let mut seen = HashSet::with_capacity(rows);
    (0..rows).all(|row| seen.insert(columns.iter().map(|&column| hashes[column][row]).collect::<Vec<u64>>()))
}

/// All ways to choose `size` of the items, those of the first items first.
fn combinations(items: &[usize], size: usize) -> Vec<Vec<usize>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let with = |(at, first): (usize, &usize)| {
        let rest = combinations(&items[at + 1..], size - 1);
        rest.into_iter().map(|rest| [vec![*first], rest].concat()).collect::<Vec<_>>()
    };
    items.iter().enumerate().flat_map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: Kind, empty: u64) -> Column {
        Column { heading: name.into(), name: name.into(), empty, kind, bounds: None, values: None }
    }

    #[test]
    fn the_fewest_and_likeliest_columns_are_the_key() {
        let columns = [
            column("cases", Kind::Int4, 0),
            column("day", Kind::Date, 0),
            column("site_id", Kind::Int4, 0),
            column("projected_id", Kind::Int4, 1),
        ];
        let of = |hashes: [[u64; 4]; 4]| guess(&columns, &hashes.map(Vec::from));
        let (unique, same) = ([1, 2, 3, 4], [1; 4]);
        let (halves, turns) = ([1, 1, 2, 2], [1, 2, 1, 2]);
        // A count alone is no key, however different.
        assert_eq!(of([unique, halves, turns, unique]), Some(vec![1, 2]));
        assert_eq!(of([same, same, unique, same]), Some(vec![2]));
        assert_eq!(of([turns, same, halves, same]), Some(vec![0, 2]));
        assert_eq!(of([same, same, same, unique]), None, "a column with gaps is no part of a key");
    }

    #[test]
    fn combinations_come_in_order() {
        assert_eq!(combinations(&[3, 1, 2], 2), [[3, 1], [3, 2], [1, 2]]);
    }
}
