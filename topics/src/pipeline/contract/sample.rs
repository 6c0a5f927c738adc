//! The property `sample` of a column in a contract: what generated data of it looks like.
//!
//! | key | value |
//! |---|---|
//! | `least`, `greatest` | numbers, before `scale` |
//! | `decimals` | digits after the point |
//! | `peakDay`, `seasonDays` | day of the year at a season's height, and how long the season lasts |
//! | `persistenceDays` | after this many days a value is independent of the one before |
//! | `refillDays` | a stock: greatest on one day in this many, then used up |
//! | `skew` | 1: all as likely; more: many near the least |
//! | `scale` | a column whose number the value is multiplied by |
//! | `of` | the cells to choose from, and no other key |

use super::words::{leaked, texts_of};
use crate::pipeline::mistake::{Mistakes, Place};
use crate::pipeline::yaml::{Map, Node};
use crate::sample::{DECIMALS_MAX, SKEW_MAX, Sample, Season};

/// Reads what generated data of a column looks like, and the position of its scale. Mistakes are reported, and the key
/// is ignored.
pub(super) fn read(node: &Node<'_, '_>, mistakes: &mut Mistakes) -> Option<(Sample, Option<Place>)> {
    let map = node.map(mistakes)?;
    let number = |name: &'static str, mistakes: &mut Mistakes| map.get(name).and_then(|node| node.number(mistakes));
    let (least, greatest) = (number("least", mistakes), number("greatest", mistakes));
    let season = season(&map, mistakes);
    let scale = map.get("scale");
    let sample = Sample {
        least,
        greatest,
        decimals: within(&map, "decimals", 0..=i64::from(DECIMALS_MAX), mistakes),
        season,
        persistence_days: within(&map, "persistenceDays", DAYS, mistakes).unwrap_or(Sample::PLAIN.persistence_days),
        refill_days: within(&map, "refillDays", DAYS, mistakes),
        skew: within(&map, "skew", 1..=i64::from(SKEW_MAX), mistakes).unwrap_or(Sample::PLAIN.skew),
        scale: scale.and_then(|node| node.text(mistakes)).map(leaked),
        of: cells(&map, mistakes),
    };
    if let (Some(least), Some(greatest)) = (least, greatest)
        && least > greatest
    {
        mistakes.add(map.place(), format!("`least` {least} is above `greatest` {greatest}"));
    }
    if !sample.of.is_empty() && (Sample { of: &[], ..sample }) != Sample::PLAIN {
        mistakes.add(map.place(), "`of` lists the cells: the other keys of `sample` have no effect with it");
    }
    map.end(mistakes);
    Some((sample, scale.map(|node| node.place())))
}

/// The upper bound is a century: no sample data is longer.
const DAYS: std::ops::RangeInclusive<i64> = 1..=36_500;

fn season(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> Option<Season> {
    let peak_day = within(map, "peakDay", 1..=366, mistakes);
    let days = within(map, "seasonDays", 1..=730, mistakes);
    match (peak_day, days) {
        (Some(peak_day), Some(days)) => Some(Season { peak_day, days }),
        // One of the two may be present but invalid, which is already reported.
        (Some(_), None) => map.need("seasonDays", mistakes).and(None),
        (None, Some(_)) => map.need("peakDay", mistakes).and(None),
        (None, None) => None,
    }
}

fn within<T: TryFrom<i64>>(
    map: &Map<'_, '_>,
    name: &'static str,
    range: std::ops::RangeInclusive<i64>,
    mistakes: &mut Mistakes,
) -> Option<T> {
    let node = map.get(name)?;
    let number = node.whole(mistakes)?;
    let taken = range.contains(&number).then(|| T::try_from(number).ok()).flatten();
    if taken.is_none() {
        mistakes.add(node.place(), format!("`{name}` is {} to {}, not {number}", range.start(), range.end()));
    }
    taken
}

/// Cells from texts, and from numbers and words of YAML.
fn cells(map: &Map<'_, '_>, mistakes: &mut Mistakes) -> &'static [&'static str] {
    let Some(node) = map.get("of") else { return &[] };
    let texts: Vec<&'static str> = texts_of(&node, mistakes).into_iter().map(|(text, _)| text).collect();
    if texts.is_empty() {
        mistakes.add(node.place(), "`of` lists no cell to choose; write numbers in quotes");
    }
    texts.leak()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::yaml::Document;

    fn sample(text: &str) -> (Option<Sample>, Vec<String>) {
        let mut mistakes = Mistakes::of("f");
        let document = Document::parse(text, 0, &mut mistakes).expect("a document");
        let sample = read(&document.root(), &mut mistakes).map(|(sample, _)| sample);
        (sample, mistakes.into_sorted().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn all_that_can_be_said_of_a_number_is_read() {
        let text = "{least: -1, greatest: 2.5, decimals: 1, peakDay: 218, seasonDays: 170, persistenceDays: 3, \
                    refillDays: 9, skew: 2, scale: population}";
        let expected = Sample {
            least: Some(-1.0),
            greatest: Some(2.5),
            decimals: Some(1),
            season: Some(Season { peak_day: 218, days: 170 }),
            persistence_days: 3,
            refill_days: Some(9),
            skew: 2,
            scale: Some("population"),
            of: &[],
        };
        assert_eq!(sample(text), (Some(expected), vec![]));
        assert_eq!(sample("{}"), (Some(Sample::PLAIN), vec![]));
        assert_eq!(sample("{of: [a, \"7\"]}"), (Some(Sample { of: &["a", "7"], ..Sample::PLAIN }), vec![]));
    }

    #[test]
    fn every_mistake_is_told_in_its_place() {
        let cases = [
            ("{least: 3, greatest: 2}", "f:1:1: `least` 3 is above `greatest` 2"),
            ("{decimals: 9}", "f:1:12: `decimals` is 0 to 6, not 9"),
            ("{peakDay: 1}", "f:1:1: `seasonDays` is missing here"),
            ("{seasonDays: 1}", "f:1:1: `peakDay` is missing here"),
            ("{of: []}", "f:1:6: `of` lists no cell to choose; write numbers in quotes"),
            ("{of: [7]}", "f:1:7: text is expected here, not a whole number"),
            ("{of: [a], least: 1}", "f:1:1: `of` lists the cells: the other keys of `sample` have no effect with it"),
            ("{scale: 4}", "f:1:9: text is expected here, not a whole number"),
        ];
        for (text, said) in cases {
            assert!(sample(text).1.contains(&said.to_owned()), "{text}: {:?}", sample(text).1);
        }
        let (_, unknown) = sample("{lest: 1}");
        assert!(unknown[0].starts_with("f:1:2: unknown key `lest`; did you mean least?"), "{unknown:?}");
    }
}
