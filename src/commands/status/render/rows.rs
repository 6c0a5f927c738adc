//! The rows of each domain by their result. Each column says what it counts, and the words that do not say it are explained
//! below.

use super::age;
use crate::commands::terminal::{Look, about, columns, first_that_fits, shorten, table, thousands, wrapped};
use crate::status::{DomainStatus, Status};

/// A column of counts.
struct Counted {
    /// What is counted.
    unit: &'static str,
    name: &'static str,
    /// Where there is little room, with what it stands for.
    short: &'static str,
    /// What the name does not say.
    means: &'static str,
    count: fn(&DomainStatus) -> i64,
    /// Left out where there is little room and no domain has any.
    is_rare: bool,
}

#[rustfmt::skip]
const COLUMNS: [Counted; 8] = [
    Counted { unit: "rows", name: "published", short: "publ.", means: "", count: |it| it.rows.published, is_rare: false },
    Counted { unit: "rows", name: "applied", short: "applied", means: "", count: |it| it.rows.applied, is_rare: false },
    Counted { unit: "rows", name: "stale", short: "stale", means: "newer data was there", count: |it| it.rows.stale, is_rare: true },
    Counted { unit: "rows", name: "duplicate", short: "dupl.", means: "received twice", count: |it| it.rows.duplicate, is_rare: true },
    Counted { unit: "rows", name: "rejected", short: "rej.", means: "", count: |it| it.rows.rejected, is_rare: false },
    Counted { unit: "values", name: "corrected", short: "corr.", means: "", count: |it| it.rows.corrected, is_rare: true },
    Counted { unit: "messages", name: "waiting", short: "waiting", means: "", count: |it| it.lag_messages, is_rare: false },
    Counted { unit: "rows", name: "orphans", short: "orphans", means: "what they refer to is not known", count: |it| it.orphans.map_or(0, |it| it.rows), is_rare: true },
];
/// A domain's name has at least so much room.
const NAME_CHARS_MIN: usize = 8;

/// How the table is drawn.
#[derive(Clone, Copy)]
struct Form {
    with_rare: bool,
    is_short: bool,
    number: fn(i64) -> String,
}

const WIDE: Form = Form { with_rare: true, is_short: false, number: thousands };
const WITHOUT_RARE: Form = Form { with_rare: false, ..WIDE };
const SHORT: Form = Form { with_rare: false, is_short: true, number: few };

/// With lines, without, without columns that have nothing, and with short names and numbers that are about so much.
pub(super) fn counted(status: &Status, look: Look) -> String {
    let plain = |form: Form| columns(look, &records(status, form), &[0]).join("\n");
    let forms: [(Form, &dyn Fn() -> String); 4] = [
        (WIDE, &|| table(look, &records(status, WIDE), 1)),
        (WIDE, &|| plain(WIDE)),
        (WITHOUT_RARE, &|| plain(WITHOUT_RARE)),
        (SHORT, &|| columns(look, &fitted(status, look), &[0]).join("\n")),
    ];
    let texts = forms.map(|(form, draw)| move || with_legend(draw(), status, form, look));
    let [one, two, three, four] = &texts;
    first_that_fits(look, &[one, two, three, four])
}

fn with_legend(text: String, status: &Status, form: Form, look: Look) -> String {
    let means = |column: &Counted| match (form.is_short && column.short != column.name, column.means) {
        (false, "") => None,
        (false, means) => Some(format!("{}: {means}", column.name)),
        (true, "") => Some(format!("{}: {}", column.short, column.name)),
        (true, means) => Some(format!("{}: {means}", column.short)),
    };
    let legend: Vec<String> = shown(status, form).filter_map(means).collect();
    match legend.is_empty() {
        true => text,
        false => format!("{text}\n{}", wrapped(look, &legend.join("; "), |line| look.faint(line))),
    }
}

fn shown(status: &Status, form: Form) -> impl Iterator<Item = &'static Counted> {
    let has_some = |column: &Counted| status.domains.iter().any(|domain| (column.count)(domain) > 0);
    COLUMNS.iter().filter(move |column| form.with_rare || !column.is_rare || has_some(column))
}

fn records(status: &Status, form: Form) -> Vec<Vec<String>> {
    let shown: Vec<&Counted> = shown(status, form).collect();
    let heading = |column: &&Counted| match form.is_short {
        true => format!("{}\n{}", if column.unit == "messages" { "msgs" } else { column.unit }, column.short),
        false => format!("{}\n{}", column.unit, column.name),
    };
    let headings = ["domain".to_owned()].into_iter().chain(shown.iter().map(heading));
    let mut records = vec![headings.chain(["newest\nfile".to_owned()]).collect::<Vec<_>>()];
    for domain in &status.domains {
        let counts = shown.iter().map(|column| cell(domain, column, form.number));
        let newest = age(domain.freshness_seconds);
        records.push([domain.domain.to_owned()].into_iter().chain(counts).chain([newest]).collect());
    }
    records
}

/// Long names of domains are shortened to what the counts leave.
fn fitted(status: &Status, look: Look) -> Vec<Vec<String>> {
    let mut records = records(status, SHORT);
    let width = |records: &[Vec<String>]| {
        columns(Look { color: false, ..look }, records, &[0]).iter().map(|line| line.chars().count()).max().unwrap_or(0)
    };
    let name = records.iter().map(|record| record[0].chars().count()).max().unwrap_or(0);
    let too_much = width(&records).saturating_sub(look.width);
    let room = name.saturating_sub(too_much).max(NAME_CHARS_MIN);
    for record in records.iter_mut().skip(1) {
        record[0] = shorten(&record[0], room);
    }
    records
}

/// Orphans are not counted where a domain refers to none, and no further than to a bound.
fn cell(domain: &DomainStatus, column: &Counted, number: fn(i64) -> String) -> String {
    let text = number((column.count)(domain));
    match (column.name, domain.orphans) {
        ("orphans", None) => "–".to_owned(),
        ("orphans", Some(orphans)) if orphans.more => format!("{text}+"),
        _ => text,
    }
}

/// At most five characters up to a thousand billion.
fn few(number: i64) -> String {
    match number {
        10_000..99_950 => format!("{:.1}k", number as f64 / 1_000.0),
        99_950..100_000 => "100k".to_owned(),
        number => about(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Orphans, Rows};

    fn status(domain: DomainStatus) -> Status {
        Status { domains: vec![domain], ..Status::default() }
    }

    #[test]
    fn columns_that_nothing_is_in_make_room_and_words_are_explained() {
        let rows = Rows { published: 12_345, applied: 12_345, ..Rows::default() };
        let idle = status(DomainStatus { domain: "health", rows, ..DomainStatus::default() });
        let narrow = Look { width: 80, ..Look::PLAIN };
        let expected = "             rows     rows      rows  messages  newest\n\
                        domain  published  applied  rejected   waiting    file\n\
                        health     12,345   12,345         0         0       –";
        assert_eq!(counted(&idle, narrow), expected);
        let wide = counted(&idle, Look { width: 140, ..Look::PLAIN });
        assert!(wide.ends_with(
            "\nstale: newer data was there; duplicate: received twice; orphans: what they refer to is not known"
        ));
    }

    #[test]
    fn all_of_it_fits_eighty_columns_at_its_widest() {
        let many = 99_949;
        let rows =
            Rows { published: many, applied: many, stale: many, duplicate: many, rejected: many, corrected: many };
        let orphans = Some(Orphans { rows: 100_000, more: true, locations: 1 });
        let full = status(DomainStatus {
            domain: "admissions_of_all_hospitals",
            rows,
            orphans,
            lag_messages: many,
            freshness_seconds: Some(3_599.0),
            ..DomainStatus::default()
        });
        let text = counted(&full, Look { width: 80, ..Look::PLAIN });
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["admi…als", "99.9k", "100k+", "rej.: rejected", "dupl.: received twice"] {
            assert!(words.contains(part), "{part} in\n{text}");
        }
    }
}
