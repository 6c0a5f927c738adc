//! Decides where publishing of a claimed object begins. Pure.

use freshet_sinks::ledger::{Claim, Numbering};
use freshet_topics::heading::folded;
use freshet_topics::{Column, Domain};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::frame::FrameLimits;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At row 0 of its present generation.
    Beginning,
    /// At the resume point.
    ResumePoint,
    /// At row 0 of the next generation.
    NextGeneration,
}

/// Decides it, from what is frozen, how this listener numbers rows, and the stream of the topic.
///
/// | numbering | resume point | its stream | start |
/// |---|---|---|---|
/// | as frozen | row 0 | – | beginning |
/// | as frozen | later | the topic's | resume point |
/// | as frozen | later | another | beginning |
/// | other | – | – | next generation |
pub fn start(claim: &Claim, here: Numbering, stream: Uuid) -> Start {
    match claim.numbering == here {
        false => Start::NextGeneration,
        true if claim.object.resume_row > 0 && claim.object.stream_id == Some(stream) => Start::ResumePoint,
        true => Start::Beginning,
    }
}

/// The number of the rules, outside the program, by which the bytes of a file become numbered rows: what the contract and
/// the settings say of the text, of where a row begins and ends, of the column that selects its partition, and of which
/// heading is which column. With another number, resume points and sequence numbers of before mean nothing, and one object
/// would have rows of two shapes.
pub(crate) fn reading_rules(domain: &Domain, limits: FrameLimits) -> i64 {
    let FrameLimits { record_bytes_max, fields_max, field_bytes_max } = limits;
    let names = |column: &Column| {
        let mut synonyms: Vec<String> = column.aliases.iter().map(|alias| folded(alias)).collect();
        synonyms.sort_unstable();
        (column.name, synonyms)
    };
    let mut columns: Vec<(&str, Vec<String>)> = domain.columns.iter().map(names).collect();
    columns.sort_unstable();
    let (keeps, partition_by) = (domain.on_new_column.keeps(), domain.partition_by);
    let rules = format!(
        "{:?} {} {record_bytes_max} {fields_max} {field_bytes_max} {partition_by} {keeps} {columns:?}",
        domain.encoding, domain.delimiter
    );
    let hash: [u8; 32] = Sha256::digest(rules).into();
    i64::from_be_bytes(*hash.first_chunk().expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use freshet_topics::{Cast, DOMAINS, Instead, NewColumn, TextEncoding};

    use super::*;
    use crate::example_object;

    fn claimed() -> Claim {
        let numbering = Numbering { parser_version: 1, partitions: 4, reading_rules: 7 };
        Claim { object: example_object(), numbering, earlier: None, received: 0 }
    }

    #[test]
    fn a_listener_that_reads_otherwise_opens_a_new_generation() {
        let (here, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let cases = [
            (0, None, 1, 4, 7, Start::Beginning),
            (0, Some(there), 1, 4, 7, Start::Beginning),
            (7, Some(here), 1, 4, 7, Start::ResumePoint),
            (7, Some(there), 1, 4, 7, Start::Beginning),
            (7, Some(here), 2, 4, 7, Start::NextGeneration),
            (7, Some(here), 1, 6, 7, Start::NextGeneration),
            (7, Some(here), 1, 4, 8, Start::NextGeneration),
            (0, None, 1, 6, 7, Start::NextGeneration),
        ];
        for (resume_row, stream_id, parser_version, partitions, reading_rules, expected) in cases {
            let mut claim = claimed();
            (claim.object.resume_row, claim.object.stream_id) = (resume_row, stream_id);
            let numbering = Numbering { parser_version, partitions, reading_rules };
            assert_eq!(start(&claim, numbering, here), expected, "{resume_row} {numbering:?}");
        }
    }

    #[test]
    fn whatever_decides_where_a_row_begins_and_which_number_it_gets_is_a_reading_rule() {
        let health = *DOMAINS[2];
        let of = |domain: &Domain| reading_rules(domain, FrameLimits::default());
        let same = of(&health);
        let with = |change: &dyn Fn(&Column) -> Column| -> &'static [Column] {
            health.columns.iter().map(change).collect::<Vec<_>>().leak()
        };
        let changed = |name: &'static str, change: fn(&Column) -> Column| {
            with(&|column| if column.name == name { change(column) } else { *column })
        };
        let others = [
            Domain { encoding: TextEncoding::Windows1252, ..health },
            Domain { delimiter: b';', ..health },
            Domain { partition_by: "date", ..health },
            Domain { on_new_column: NewColumn::Ignore, ..health },
            Domain { columns: &health.columns[..health.columns.len() - 1], ..health },
            Domain { columns: changed("malaria_cases", |it| Column { aliases: &["malaria"], ..*it }), ..health },
            Domain { columns: changed("malaria_cases", |it| Column { name: "malaria", ..*it }), ..health },
        ];
        for other in &others {
            assert_ne!(of(other), same, "{other:?}");
        }
        for limits in [
            FrameLimits { record_bytes_max: 9, ..FrameLimits::default() },
            FrameLimits { fields_max: 9, ..FrameLimits::default() },
            FrameLimits { field_bytes_max: 9, ..FrameLimits::default() },
        ] {
            assert_ne!(reading_rules(&health, limits), same, "{limits:?}");
        }
        // What only decides what a cell means, and the order of the columns, change no number.
        let reversed: Vec<Column> = health.columns.iter().rev().copied().collect();
        let required = changed("malaria_cases", |it| Column { absent: Instead::Reject, ..*it });
        for alike in [
            Domain { key: &["date"], missing_values: &["x"], ..health },
            Domain { columns: reversed.leak(), ..health },
            Domain { columns: required, on_new_column: NewColumn::Add, ..health },
        ] {
            assert_eq!(of(&alike), same, "{alike:?}");
        }
        // A program that counts otherwise would publish every unfinished file again.
        let columns: &'static [Column] = vec![Column::required("place", Cast::Int)].leak();
        let (delimiter, encoding, on_new_column) = (b',', TextEncoding::Utf8, NewColumn::Keep);
        let plain = Domain { columns, partition_by: "place", delimiter, encoding, on_new_column, ..health };
        assert_eq!(of(&plain), -6_482_535_390_277_221_670, "as in the version before");
    }
}
