//! Compares the rows of a file with the other rows of their keys. Pure.
//!
//! | a newer row of the key was there first | an older row was there | its values | the row |
//! |---|---|---|---|
//! | yes | – | – | lost |
//! | no | no | – | added |
//! | no | yes | others | changed |
//! | no | yes | the same | same |
//!
//! Newer and older is the order of the rows; what was there first is the order of the log. Rows of a key are nearly always
//! in one partition; where they are not (partitions were added), the older row counts as there, and the newer one as later.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use freshet_sinks::apply::progress::SeqSet;
use freshet_topics::{Domain, Lineage, Order, Value};

/// Keys of a file that are compared; the rows of further ones are counted and left out.
pub const KEYS_MAX: usize = 500_000;
/// Bytes of values that are held for them: rows of some hundred bytes, twice.
const BYTES_MAX: usize = 512 << 20;

/// The `src_ord` of the version that removed the rows of an object from the table, if one did.
pub(super) type Removed = Option<i64>;

/// Where a row is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Place {
    /// Whether it was there before `other`; `otherwise` where the log does not say.
    fn is_before(self, other: Place, otherwise: bool) -> bool {
        if self.partition == other.partition { self.offset < other.offset } else { otherwise }
    }
}

/// A row that loads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) object: i64,
    pub(super) order: Order,
    pub(super) line: i64,
    pub(super) place: Place,
    /// The values of its key, packed.
    pub(super) key: &'a str,
    /// The values of all columns, packed.
    pub(super) values: &'a str,
}

/// Packs values: two texts are equal if and only if the values are. A value is never a NUL byte, which Postgres refuses.
pub(super) fn packed<'v>(values: impl Iterator<Item = Value<'v>>) -> String {
    let mut text = String::new();
    for (at, value) in values.enumerate() {
        if at > 0 {
            text.push('\0');
        }
        match value {
            Value::Null => {}
            Value::Numeric(number) => text.push_str(&format!("={}", number.normalize())),
            // Zero has no sign.
            Value::Double(number) => text.push_str(&format!("={}", if number == 0.0 { 0.0 } else { number })),
            value => text.push_str(&format!("={value}")),
        }
    }
    text
}

/// The values as text; `None` is NULL.
fn unpacked(text: &str) -> impl Iterator<Item = Option<&str>> {
    text.split('\0').map(|value| value.strip_prefix('='))
}

/// The row of a key that the file has, and what is known of the others.
struct Held {
    order: Order,
    line: i64,
    place: Place,
    values: Box<str>,
    before: Option<Before>,
    /// The newest row that came since, and its object.
    since: Option<(Order, i64)>,
    lost_to: Option<i64>,
}

/// The row that the table had before.
struct Before {
    order: Order,
    object: i64,
    values: Box<str>,
}

/// A comparison under way: first all rows of the file, then all others.
pub(super) struct Comparison {
    domain: &'static Domain,
    keys: HashMap<Box<str>, Held>,
    bytes: usize,
    received: BTreeMap<i32, SeqSet>,
    changes: Changes,
}

/// What a reading of a file changed in its table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows of the file that the topic holds and that are applied.
    pub rows: i64,
    /// Rows that the rules refuse, by rule.
    pub rejected: BTreeMap<&'static str, i64>,
    /// Rows of a key that a later row of the file has too: only that one counts.
    pub repeated: i64,
    /// Rows of keys that had no row.
    pub added: i64,
    /// Rows of keys that had other values.
    pub changed: i64,
    /// Of those, values that changed, by column.
    pub columns: BTreeMap<&'static str, i64>,
    /// Rows of keys that had the same values.
    pub same: i64,
    /// Rows of other objects that it replaced, changed or the same, by the object that had them.
    pub replaced: BTreeMap<i64, i64>,
    /// Rows of keys that had newer data, by the object that had it.
    pub lost_to: BTreeMap<i64, i64>,
    /// Rows that were written and that newer rows have replaced since, by the object that has the newest.
    pub replaced_by: BTreeMap<i64, i64>,
    /// Rows beyond [`KEYS_MAX`], or the memory for them, which were not compared.
    pub left_out: i64,
    /// Examples in the order of the file, some of each kind.
    pub examples: Vec<Example>,
}

/// What happened to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Its line in the file.
    pub line: i64,
    /// Its key: columns and values; `None` is NULL.
    pub key: Vec<(&'static str, Option<String>)>,
    /// What happened to it.
    pub change: Change,
}

/// What a row did to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its key had no row.
    Added,
    /// Columns with the value before and after; `None` is NULL.
    Changed(Vec<(&'static str, Option<String>, Option<String>)>),
    /// This object had newer data.
    Lost(i64),
}

impl Comparison {
    pub(super) fn new(domain: &'static Domain) -> Comparison {
        let (keys, received) = (HashMap::new(), BTreeMap::new());
        Comparison { domain, keys, bytes: 0, received, changes: Changes::default() }
    }

    /// Counts a row of the file; `false` if it came before.
    pub(super) fn receive(&mut self, partition: i32, seq: i64) -> bool {
        let is_new = self.received.entry(partition).or_default().insert(seq);
        self.changes.rows += i64::from(is_new);
        is_new
    }

    /// A row of the file that does not load.
    pub(super) fn reject(&mut self, rule: &'static str) {
        *self.changes.rejected.entry(rule).or_default() += 1;
    }

    /// A row of the file.
    pub(super) fn add_own(&mut self, row: Seen<'_>) {
        if let Some(held) = self.keys.get_mut(row.key) {
            self.changes.repeated += 1;
            if row.order > held.order {
                *held = Held::of(row);
            }
            return;
        }
        if self.keys.len() >= KEYS_MAX || self.bytes >= BYTES_MAX / 2 {
            self.changes.left_out += 1;
            return;
        }
        self.bytes += row.key.len() + row.values.len();
        self.keys.insert(row.key.into(), Held::of(row));
    }

    /// Whether no row of the file loads, so that there is nothing to compare.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the file has a row of that key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// A row of another reading. `removed` says when its version left the table, `refused` which rows Postgres refused.
    pub(super) fn add_other(&mut self, row: Seen<'_>, removed: Removed, refused: &BTreeSet<Lineage>) {
        let Some(held) = self.keys.get_mut(row.key) else { return };
        if row.order > held.order {
            if row.place.is_before(held.place, false) {
                held.lost_to = Some(row.object);
            } else if held.since.is_none_or(|(order, _)| order < row.order) {
                held.since = Some((row.order, row.object));
            }
            return;
        }
        // Another reading of the very file is no other data; a version that had left the table was not there.
        let is_same_file = row.order.src_ord == held.order.src_ord;
        let had_left = removed.is_some_and(|removed| removed < held.order.src_ord);
        let is_newest = held.before.as_ref().is_none_or(|before| before.order < row.order);
        let Order { generation, row: number, .. } = row.order;
        let is_refused = refused.contains(&Lineage { object: row.object, generation, row: number });
        if is_same_file || had_left || !is_newest || is_refused || !row.place.is_before(held.place, true) {
            return;
        }
        self.bytes += row.values.len();
        if self.bytes > BYTES_MAX {
            self.keys.remove(row.key);
            self.changes.left_out += 1;
            return;
        }
        held.before = Some(Before { order: row.order, object: row.object, values: row.values.into() });
    }

    /// The result, of an object, with so many examples of each kind.
    pub(super) fn changes(self, object: i64, examples_max: usize) -> Changes {
        let Comparison { domain, keys, mut changes, .. } = self;
        let mut rows: Vec<(Box<str>, Held)> = keys.into_iter().collect();
        rows.sort_unstable_by_key(|(_, held)| held.order);
        let mut shown = [0; 3];
        for (key, held) in rows {
            let change = held.change(domain);
            let kind = match &change {
                Some(Change::Lost(to)) => {
                    *changes.lost_to.entry(*to).or_default() += 1;
                    2
                }
                Some(Change::Added) => {
                    changes.added += 1;
                    0
                }
                Some(Change::Changed(columns)) => {
                    changes.changed += 1;
                    for (column, ..) in columns {
                        *changes.columns.entry(column).or_default() += 1;
                    }
                    1
                }
                None => {
                    changes.same += 1;
                    3
                }
            };
            if let (Some(before), None) = (&held.before, held.lost_to)
                && before.object != object
            {
                *changes.replaced.entry(before.object).or_default() += 1;
            }
            // The same file, sent again as new, replaces nothing: its rows are there.
            if let (Some((_, since)), None) = (held.since, held.lost_to)
                && since != object
            {
                *changes.replaced_by.entry(since).or_default() += 1;
            }
            if let (Some(change), Some(shown)) = (change, shown.get_mut(kind))
                && *shown < examples_max
            {
                *shown += 1;
                let key = domain.key.iter().copied().zip(unpacked(&key).map(|value| value.map(str::to_owned)));
                changes.examples.push(Example { line: held.line, key: key.collect(), change });
            }
        }
        changes
    }
}

impl Held {
    fn of(row: Seen<'_>) -> Held {
        let Seen { order, line, place, values, .. } = row;
        Held { order, line, place, values: values.into(), before: None, since: None, lost_to: None }
    }

    /// `None` if the values are as they were.
    fn change(&self, domain: &Domain) -> Option<Change> {
        if let Some(object) = self.lost_to {
            return Some(Change::Lost(object));
        }
        let Some(before) = &self.before else { return Some(Change::Added) };
        let text = |value: Option<&str>| value.map(str::to_owned);
        let values = domain.columns.iter().zip(unpacked(&before.values).zip(unpacked(&self.values)));
        let changed: Vec<_> = values
            .filter(|(_, (before, after))| before != after)
            .map(|(column, (before, after))| (column.name, text(before), text(after)))
            .collect();
        (!changed.is_empty()).then_some(Change::Changed(changed))
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::{Cast, Column};

    use super::*;

    fn domain() -> &'static Domain {
        let columns = [Column::required("id", Cast::Int), Column::optional("cases", Cast::Int)];
        let columns: &'static [Column] = Box::leak(Box::new(columns));
        Box::leak(Box::new(Domain { columns, key: &["id"], ..*freshet_topics::DOMAINS[0] }))
    }

    /// Row `id` of an object at an offset; objects are in the order of their numbers.
    fn row<'a>(object: i64, offset: i64, key: &'a str, values: &'a str) -> Seen<'a> {
        let place = Place { partition: 0, offset };
        let order = Order { src_ord: object, generation: 1, row: offset };
        Seen { object, order, line: offset + 2, place, key, values }
    }

    fn compared(own: &[Seen<'_>], others: &[(Seen<'_>, Removed)]) -> Changes {
        let mut comparison = Comparison::new(domain());
        for (seq, row) in (0..).zip(own) {
            assert!(comparison.receive(0, seq) && !comparison.receive(0, seq));
            comparison.add_own(*row);
        }
        for (row, removed) in others {
            comparison.add_other(*row, *removed, &BTreeSet::from([Lineage { object: 66, generation: 1, row: 3 }]));
        }
        comparison.changes(5, 10)
    }

    #[test]
    fn each_row_is_what_the_log_says_it_did() {
        let own = row(5, 10, "=1", "=1\0=4");
        // (other rows of the key, what the row did, who replaced it)
        type Case<'a> = (&'a str, &'a [(Seen<'a>, Removed)], &'a str, Option<i64>);
        let cases: [Case<'_>; 11] = [
            ("nothing else", &[], "added", None),
            ("older, other values", &[(row(3, 2, "=1", "=1\0=7"), None)], "7 to 4", None),
            ("older, NULL", &[(row(3, 2, "=1", "=1\0"), None)], "NULL to 4", None),
            ("older, the same values", &[(row(3, 2, "=1", "=1\0=4"), None)], "same", None),
            (
                "the newest of the older ones counts",
                &[(row(4, 1, "=1", "=1\0=8"), None), (row(3, 2, "=1", "=1\0=7"), None)],
                "8 to 4",
                None,
            ),
            ("older, but it came later", &[(row(3, 12, "=1", "=1\0=7"), None)], "added", None),
            ("newer, and there first", &[(row(6, 2, "=1", "=1\0=7"), None)], "lost to 6", None),
            (
                "newer, later",
                &[(row(6, 12, "=1", "=1\0=7"), None), (row(7, 13, "=1", "=1\0=7"), None)],
                "added",
                Some(7),
            ),
            ("its version had been replaced", &[(row(3, 2, "=1", "=1\0=7"), Some(4))], "added", None),
            ("its version is replaced by this one", &[(row(3, 2, "=1", "=1\0=7"), Some(5))], "7 to 4", None),
            ("another key", &[(row(3, 2, "=2", "=2\0=7"), None)], "added", None),
        ];
        for (name, others, expected, replaced_by) in cases {
            let changes = compared(&[own], others);
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".into());
            let found = match changes.examples.first().map(|example| &example.change) {
                None => "same".to_owned(),
                Some(Change::Added) => "added".to_owned(),
                Some(Change::Lost(to)) => format!("lost to {to}"),
                Some(Change::Changed(values)) => format!("{} to {}", text(&values[0].1), text(&values[0].2)),
            };
            assert_eq!(found, expected, "{name}");
            assert_eq!(changes.replaced_by.keys().next().copied(), replaced_by, "{name}");
            assert_eq!(changes.replaced.values().sum::<i64>(), changes.changed + changes.same, "{name}");
            let lost: i64 = changes.lost_to.values().sum();
            assert_eq!(changes.added + changes.changed + changes.same + lost, 1, "{name}");
        }
        let refused =
            Seen { object: 66, order: Order { src_ord: 3, generation: 1, row: 3 }, ..row(3, 3, "=1", "=1\0=7") };
        assert_eq!(compared(&[own], &[(refused, None)]).added, 1, "Postgres refused it");
    }

    #[test]
    fn of_rows_with_one_key_the_last_counts_and_examples_are_in_the_order_of_the_file() {
        let own = [row(5, 11, "=2", "=2\0=1"), row(5, 10, "=1", "=1\0=1"), row(5, 12, "=2", "=2\0=9")];
        assert!(Comparison::new(domain()).is_empty());
        let changes = compared(&own, &[(row(3, 0, "=2", "=2\0=1"), None)]);
        assert_eq!((changes.rows, changes.repeated, changes.added, changes.changed), (3, 1, 1, 1));
        assert_eq!(changes.columns, BTreeMap::from([("cases", 1)]));
        assert_eq!(changes.replaced, BTreeMap::from([(3, 1)]));
        assert_eq!(changes.examples.iter().map(|example| example.line).collect::<Vec<_>>(), [12, 14]);
        assert_eq!(changes.examples[1].key, [("id", Some("2".to_owned()))]);
    }

    #[test]
    fn packed_values_are_equal_where_the_values_are() {
        let number = |text: &str| Value::Numeric(text.parse().expect("a number"));
        let same = [
            (number("1.0"), number("1")),
            (Value::Double(-0.0), Value::Double(0.0)),
            (Value::Double(f64::NAN), Value::Double(f64::NAN)),
        ];
        for (left, right) in same {
            assert_eq!(packed([left].into_iter()), packed([right].into_iter()), "{left:?}");
        }
        let text = packed([Value::Null, Value::Text(""), Value::Text("=a")].into_iter());
        assert_eq!(unpacked(&text).collect::<Vec<_>>(), [None, Some(""), Some("=a")]);
    }
}
