//! Sample data of a pipeline that has a bit of everything that a contract can say.

use std::sync::LazyLock;

use freshet_ingest::IngestSettings;
use freshet_ingest::inspect::inspect;
use freshet_topics::{
    Cell, Column, Comparison, EventTime, Limit, NewColumn, Observed, Reference, RowRule, Sample, Season, TextEncoding,
};

use super::*;

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn rule(name: &'static str, limits: Vec<Limit>, otherwise: Otherwise) -> &'static [Rule] {
    vec![Rule { name, limits: limits.leak(), otherwise }].leak()
}

fn int(value: i32) -> &'static Value<'static> {
    leak(Value::Int(value))
}

fn text(value: &'static str) -> Value<'static> {
    Value::Text(value)
}

fn required(name: &'static str, cast: Cast, rules: &'static [Rule]) -> Column {
    Column { rules, ..Column::required(name, cast) }
}

fn sampled(name: &'static str, cast: Cast, sample: Sample) -> Column {
    Column { sample: Some(sample), ..Column::required(name, cast) }
}

/// Domains with no column of the shipped ones, in an order in which nothing comes before what refers to it.
fn all() -> &'static [&'static Domain] {
    static ALL: LazyLock<Vec<&'static Domain>> = LazyLock::new(|| vec![leak(stays()), leak(rates()), leak(wards())]);
    &ALL
}

fn wards() -> Domain {
    let price = Cast::Numeric { precision: 6, scale: 2 };
    let columns = vec![
        required("ward", Cast::Int, rule("known_wards", vec![Limit::Minimum(int(500))], Otherwise::Reject)),
        sampled("size", Cast::BigInt, Sample { least: Some(10.0), greatest: Some(90.0), ..Sample::PLAIN }),
        required("title", Cast::Text, rule("short", vec![Limit::MinLength(3), Limit::MaxLength(5)], Otherwise::Null)),
        required("opened", Cast::Date, &[]),
        required("seen", Cast::Timestamp, &[]),
        Column { uncastable: Instead::Null, ..Column::optional("fee", price) },
        required(
            "shape",
            Cast::Text,
            rule("shapes", vec![Limit::OneOf(vec![text("round"), text("L")].leak())], Otherwise::Warn),
        ),
        Column { empty: Instead::Value(leak(Value::Bool(true))), ..Column::optional("open", Cast::Bool) },
    ];
    Domain {
        name: "wards",
        table: "wards",
        patterns: &["lists/wards.csv"],
        key: &["ward"],
        partition_by: "ward",
        event_time: None,
        columns: columns.leak(),
        row_rules: &[],
        ..*domains::all()[0]
    }
}

/// Rows with a key of their own, which refer to any ward; nothing is projected.
fn stays() -> Domain {
    let code = regex::Regex::new("^(?:[A-Z][0-9]{3})$").expect("an expression");
    let columns = vec![
        required("stay", Cast::BigInt, &[]),
        Column {
            references: Some(Reference { domain: "wards", column: "ward" }),
            ..Column::required("in_ward", Cast::Int)
        },
        required("day", Cast::Date, &[]),
        required("came", Cast::Timestamp, &[]),
        required("left", Cast::Timestamp, &[]),
        required("code", Cast::TrimmedText, rule("codes", vec![Limit::Pattern(leak(code))], Otherwise::Reject)),
        Column {
            missing_values: &["NA", "7"],
            rules: rule("ages", vec![Limit::Above(int(5)), Limit::Below(int(9))], Otherwise::Cap),
            ..Column::optional("age", Cast::Int)
        },
        sampled(
            "beds",
            Cast::Double,
            Sample { scale: Some("size"), least: Some(0.5), greatest: Some(1.0), ..Sample::PLAIN },
        ),
        sampled("drug", Cast::Text, Sample { of: &["A, \"B\"", "C"], ..Sample::PLAIN }),
    ];
    let row_rules = [RowRule {
        name: "left_first",
        column: "left",
        comparison: Comparison::AtLeast,
        other: "came",
        otherwise: Otherwise::Null,
    }];
    Domain {
        name: "stays",
        table: "stays",
        patterns: &["in/stays/"],
        key: &["stay"],
        partition_by: "stay",
        event_time: Some(EventTime { date: "day", observed_when: None }),
        columns: columns.leak(),
        row_rules: row_rules.to_vec().leak(),
        on_new_column: NewColumn::Reject,
        ..*domains::all()[0]
    }
}

/// One row a station, which no dimension knows, and day; observed where a text says so.
fn rates() -> Domain {
    let kinds = rule("kinds", vec![Limit::OneOf(vec![text("seen"), text("guess")].leak())], Otherwise::Reject);
    let stock = Sample { refill_days: Some(10), greatest: Some(50.0), ..Sample::PLAIN };
    let season = Some(Season { peak_day: 200, days: 100 });
    let heat = Sample { season, least: Some(-20.0), greatest: Some(40.0), decimals: Some(2), skew: 2, ..Sample::PLAIN };
    let columns = vec![
        required("station", Cast::TrimmedText, &[]),
        required("on_day", Cast::Date, &[]),
        required("kind", Cast::Text, kinds),
        Column::optional("guess_year", Cast::Int),
        sampled("stock", Cast::Int, stock),
        sampled("heat", Cast::Double, heat),
    ];
    Domain {
        name: "rates",
        table: "rates",
        patterns: &["rates/"],
        key: &["station", "on_day", "kind", "guess_year"],
        partition_by: "station",
        event_time: Some(EventTime {
            date: "on_day",
            observed_when: Some(Observed { column: "kind", value: leak(text("seen")) }),
        }),
        columns: columns.leak(),
        row_rules: &[],
        ..*domains::all()[0]
    }
}

fn generate(change: impl FnOnce(&mut GenerateOptions)) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().expect("a value");
    let mut options = options(folder.path());
    change(&mut options);
    run(all(), &options).expect("a value");
    contents(folder.path())
}

/// The cells of all rows of a domain, each by its column.
fn rows(contents: &BTreeMap<String, Vec<u8>>, domain: &Domain) -> Vec<BTreeMap<String, String>> {
    let of_domain = contents.iter().filter(|(key, _)| domain.matches(key, []));
    of_domain
        .flat_map(|(_, bytes)| {
            csv::Reader::from_reader(bytes.as_slice()).into_deserialize().map(|row| row.expect("a row"))
        })
        .collect()
}

#[test]
fn rows_of_any_contract_load_as_they_stand() {
    let contents = generate(|_| {});
    for domain in all() {
        let (counts, rows, _) = judged(&contents, domain);
        assert_eq!(counts, BTreeMap::new(), "{}", domain.name);
        assert_eq!(
            rows,
            match domain.name {
                "wards" => 20,
                "stays" => 800,
                _ => 900,
            },
            "{}",
            domain.name
        );
    }
}

#[test]
fn a_dirty_set_of_any_contract_reaches_all_that_it_says() {
    let contents = generate(|options| (options.entities, options.days, options.dirty) = (900, 5, 1.0));
    for domain in all() {
        let (counts, ..) = judged(&contents, domain);
        let missed: Vec<_> = countable(domain).into_iter().filter(|it| !counts.contains_key(it)).collect();
        assert_eq!(missed, [], "{}: nothing was counted under these", domain.name);
    }
}

#[test]
fn rows_refer_to_one_another_and_have_keys_of_their_own() {
    let contents = generate(|_| {});
    let [stays, rates, wards] = [0, 1, 2].map(|at| rows(&contents, all()[at]));
    let sizes: BTreeMap<&str, f64> =
        wards.iter().map(|row| (&*row["ward"], row["size"].parse().expect("a size"))).collect();
    assert_eq!(sizes.keys().next_back(), Some(&"519"), "numbers begin where the rules let them");
    let keys: BTreeSet<&String> = stays.iter().map(|row| &row["stay"]).collect();
    assert_eq!(keys.len(), stays.len());
    for row in &stays {
        let (beds, size) = (row["beds"].parse::<f64>().expect("beds"), sizes[&*row["in_ward"]]);
        assert!((0.5 * size - 0.1..=size).contains(&beds), "{beds} of {size}");
    }
    let wards_used: BTreeSet<&String> = stays.iter().map(|row| &row["in_ward"]).collect();
    assert!(wards_used.len() > 10, "{wards_used:?}");
    for row in &rates {
        let is_guess = row["kind"] == "guess";
        assert_eq!(row["guess_year"], if is_guess { format!("{}.0", &row["on_day"][..4]) } else { String::new() });
    }
}

#[test]
fn seasons_stocks_and_persistence_show() {
    let contents = generate(|options| (options.entities, options.days, options.projections) = (30, 365, 0));
    let rates = rows(&contents, all()[1]);
    let mean = |month: &str, column: &str| {
        let of_month: Vec<f64> = rates
            .iter()
            .filter(|row| &row["on_day"][5..7] == month)
            .map(|row| row[column].parse().expect("a number"))
            .collect();
        of_month.iter().sum::<f64>() / of_month.len() as f64
    };
    assert!(mean("07", "heat") > 5.0 && mean("01", "heat") < -17.0, "{} {}", mean("07", "heat"), mean("01", "heat"));
    let of_one: Vec<f64> =
        rates.iter().filter(|row| row["station"] == "7").map(|row| row["stock"].parse().expect("a stock")).collect();
    let filled = of_one.iter().filter(|stock| **stock == 50.0).count();
    assert!((36..=37).contains(&filled), "{filled} days of 365");
    assert!(of_one.windows(2).all(|pair| pair[1] == 50.0 || pair[1] == pair[0] - 5.0), "{of_one:?}");
}

/// Rates as a spreadsheet in France writes them.
fn french_rates(encoding: TextEncoding) -> &'static Domain {
    let place = sampled("place", Cast::Text, Sample { of: &["Côte; \"B\"", "Zoë"], ..Sample::PLAIN });
    let columns = rates().columns.iter().copied().chain([place]);
    let columns: Vec<Column> = columns.map(|it| Column { decimal_comma: it.cast.is_number(), ..it }).collect();
    leak(Domain { columns: columns.leak(), delimiter: b';', encoding, ..rates() })
}

#[tokio::test]
async fn files_have_the_delimiter_the_decimal_sign_and_the_encoding_of_their_contract() {
    for encoding in [TextEncoding::Utf8, TextEncoding::Windows1252, TextEncoding::Utf16Le, TextEncoding::Utf16Be] {
        let domain = french_rates(encoding);
        let [place, heat] = ["place", "heat"].map(|name| domain.index_of(name));
        for dirty in [0.0, 1.0] {
            let folder = tempfile::tempdir().expect("a value");
            // Enough files for all styles of a dirty set.
            let options = GenerateOptions { dirty, rows_per_file: 200, ..options(folder.path()) };
            run(vec![domain].leak(), &options).expect("a value");
            let (mut places, mut rows, mut wrong, mut commas) = (BTreeSet::new(), 0, 0, 0);
            for file in files(folder.path()).expect("a value") {
                let each = |_, row: &freshet_topics::RawRow<'_>| {
                    let judged = judge::row(domain, row);
                    let text = |at: usize| match &row.cells[at] {
                        Cell::Text(text) => text.to_string(),
                        Cell::Absent | Cell::Missing => String::new(),
                    };
                    rows += 1;
                    wrong += i32::from(judged.refusal(0).is_some() || judged.corrections.iter().next().is_some());
                    commas += i32::from(text(heat).contains(','));
                    places.insert(text(place));
                };
                let read = inspect(domain, &[], &IngestSettings::default(), &file.path, each).await;
                read.unwrap_or_else(|error| panic!("{encoding:?} {dirty} {}: {error}", file.key));
            }
            assert!(places.contains("Côte; \"B\"") && places.contains("Zoë"), "{encoding:?}: {places:?}");
            match dirty > 0.0 {
                true => assert!(rows > 900 && wrong > 100, "{encoding:?}: {wrong} of {rows}"),
                false => assert_eq!((places.len(), rows, wrong, commas), (2, 900, 0, 900), "{encoding:?}"),
            }
        }
    }
}

#[test]
fn what_a_contract_does_not_tell_is_asked_for() {
    let pattern = regex::Regex::new("^(?:[0-9]{8}-[a-f]{2})$").expect("an expression");
    let odd = rule("odd", vec![Limit::Pattern(leak(pattern))], Otherwise::Reject);
    let of = |columns: Vec<Column>| {
        let domain = Domain { name: "odd", key: &["ward"], patterns: &["odd/"], columns: columns.leak(), ..wards() };
        let folder = tempfile::tempdir().expect("a value");
        format!("{:#}", run(vec![leak(domain)].leak(), &options(folder.path())).expect_err("an error"))
    };
    let key = || Column::required("ward", Cast::Int);
    let scaled = |name, scale| sampled(name, Cast::Int, Sample { scale: Some(scale), ..Sample::PLAIN });
    let cases = [
        (
            vec![key(), required("x", Cast::Text, odd)],
            "sample data of odd: column x: no generated text satisfies its rules",
        ),
        (vec![key(), scaled("x", "y")], "column x: it is scaled by `y`, which no available row has"),
        (
            vec![key(), scaled("x", "y"), Column::required("y", Cast::Text)],
            "column x: it is scaled by `y`, which is not a number",
        ),
        (vec![key(), scaled("x", "y"), scaled("y", "x")], "columns scale each other in a circle"),
        (
            vec![sampled("ward", Cast::Int, Sample { of: &["4", "5"], ..Sample::PLAIN })],
            "column ward of odd can identify at most 2 entities, not 20: use a smaller --entities",
        ),
        (
            vec![required("ward", Cast::Int, rule("few", vec![Limit::Maximum(int(10))], Otherwise::Null))],
            "column ward of odd can identify at most 10 entities, not 20",
        ),
    ];
    for (columns, said) in cases {
        let found = of(columns);
        assert!(found.contains(said), "{found}");
    }
}
