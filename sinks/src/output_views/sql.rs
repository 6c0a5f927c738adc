//! An output's view as SQL: its query over all windows.
//!
//! The view contains the query once and runs it for each window (`LATERAL`), as the publisher does, so the view has
//! exactly the published rows, however the query uses the bounds of its window. Pure.

use freshet_topics::pipeline::output::Output;
use freshet_topics::pipeline::sql::Parameter;
use freshet_topics::window::WindowKind;
use freshet_topics::{Domain, EventTime};
use sha2::{Digest, Sha256};

use super::SCHEMA;
use crate::tables::{Setup, identifier, identifiers, literal, qualified};

/// Raise this if the program creates a different view from the same output.
const LAYOUT: u32 = 1;
/// Precedes the stamp in the comment of a view, and says that the view is freshet's.
const STAMP_PREFIX: &str = "Made by freshet setup, of definition ";
/// Characters of a stamp.
const STAMP_CHARS: usize = 16;
/// The windows, under the name that the query's parameters use.
const WINDOWS: &str = "freshet_window";

/// The view's name, quoted for SQL.
pub(super) fn name(output: &str) -> String {
    qualified(SCHEMA, output)
}

/// A stamp that changes with the definition of the view.
pub(super) fn stamp(setup: &Setup<'_>, output: &Output) -> String {
    let mut text = format!("{LAYOUT}\n{}\n{:?}\n{:?}\n", body(setup, output), output.hidden, output.columns);
    text.push_str(output.description);
    // `SELECT *` returns other columns once a table has them.
    for domain in output.facts.iter().chain(output.dimensions) {
        let columns = domain.columns.iter().map(|column| format!("{} {}", column.name, column.cast.sql_type()));
        text.extend(columns.chain(domain.kept_columns().map(|(name, _)| name.to_owned())));
    }
    hex::encode(Sha256::digest(text))[..STAMP_CHARS].to_owned()
}

/// The stamp in a view's comment; `None` if the view is not freshet's.
pub(super) fn stamp_of(comment: &str) -> Option<&str> {
    let (_, stamp) = comment.rsplit_once(STAMP_PREFIX)?;
    (stamp.len() == STAMP_CHARS).then_some(stamp)
}

/// The SQL condition that the view comment in `description` is one of freshet's.
pub(crate) fn is_ours(description: &str) -> String {
    format!("coalesce({description} LIKE '%{STAMP_PREFIX}%', false)")
}

/// The statement that creates or replaces the view; `columns`: the published columns.
pub(super) fn create(setup: &Setup<'_>, output: &Output, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("o.{}", identifier(column))).collect();
    format!(
        "CREATE OR REPLACE VIEW {} AS SELECT {} FROM {}",
        name(output.name),
        columns.join(", "),
        body(setup, output)
    )
}

/// The statements that set its comments.
pub(super) fn comments(setup: &Setup<'_>, output: &Output, columns: &[String]) -> Vec<String> {
    let name = name(output.name);
    let comment = format!("{}\n{STAMP_PREFIX}{}", output.description, stamp(setup, output));
    let published = output.columns.iter().filter(|(column, _)| columns.iter().any(|it| it == column));
    let of_columns =
        published.map(|(column, said)| format!("COMMENT ON COLUMN {name}.{} IS {}", identifier(column), literal(said)));
    [format!("COMMENT ON VIEW {name} IS {}", literal(&comment))].into_iter().chain(of_columns).collect()
}

/// The windows, and the query for each of them.
fn body(setup: &Setup<'_>, output: &Output) -> String {
    let query = output.query.with(|parameter| format!("{WINDOWS}.{}", parameter.name()));
    let names = identifiers(Parameter::ALL.map(Parameter::name));
    format!("({}) AS {WINDOWS} ({names}) CROSS JOIN LATERAL ({query}) AS o", windows(setup, output))
}

/// Every window that has an observed row of a fact: kind, first day, the day after its last, whether it is closed.
fn windows(setup: &Setup<'_>, output: &Output) -> String {
    let dates: Vec<String> = facts(setup, output)
        .map(|(table, event_time)| {
            let (date, observed) = (identifier(event_time.date), event_time.observed_sql(""));
            format!("SELECT {date} AS day FROM {table} WHERE {observed}")
        })
        .collect();
    let starts: Vec<String> = output.windows.iter().map(|kind| start(*kind)).collect();
    let (closes, latest) = match output.closes() {
        true => ("coalesce(latest.day >= ends.day + latest.lateness_days, false)", watermark(setup, output)),
        false => ("NULL::boolean", "SELECT NULL::date AS day, 0 AS lateness_days".to_owned()),
    };
    format!(
        "SELECT starts.kind, starts.day, ends.day, {closes} FROM (SELECT DISTINCT kinds.kind, kinds.day, kinds.length \
         FROM ({}) AS days CROSS JOIN LATERAL (VALUES {}) AS kinds (kind, day, length)) AS starts \
         CROSS JOIN LATERAL (SELECT coalesce((starts.day + starts.length)::date, date '10000-01-01') AS day) AS ends \
         CROSS JOIN ({latest}) AS latest",
        dates.join(" UNION "),
        starts.join(", ")
    )
}

/// The window of a kind that contains `days.day`, as in [`freshet_topics::window::Window`]: kind, first day, and
/// length; a window without an end has no length.
fn start(kind: WindowKind) -> String {
    let name = literal(kind.name());
    match kind {
        WindowKind::Day => format!("({name}::text, days.day, interval '1 day')"),
        WindowKind::Week => format!("({name}, date_trunc('week', days.day::timestamp)::date, interval '7 days')"),
        WindowKind::Month => format!("({name}, date_trunc('month', days.day::timestamp)::date, interval '1 month')"),
        WindowKind::Year => format!("({name}, date_trunc('year', days.day::timestamp)::date, interval '1 year')"),
        WindowKind::All => format!("({name}, date '0001-01-01 BC', NULL)"),
    }
}

/// The progress of the facts: the earliest of their latest days, ignoring days in the far future; NULL while a fact has
/// no rows.
fn watermark(setup: &Setup<'_>, output: &Output) -> String {
    let latest: Vec<String> = facts(setup, output)
        .map(|(table, event_time)| {
            let (date, observed) = (identifier(event_time.date), event_time.observed_sql(""));
            format!("SELECT max({date}) AS day FROM {table} WHERE {observed} AND {date} <= (now() AT TIME ZONE 'UTC')::date + 1")
        })
        .collect();
    format!(
        "SELECT CASE WHEN bool_and(facts.day IS NOT NULL) THEN min(facts.day) END AS day, {} AS lateness_days FROM ({}) AS facts",
        setup.allowed_lateness_days,
        latest.join(" UNION ALL ")
    )
}

/// The tables of the facts, quoted for SQL, with the column that places their rows in time.
fn facts<'s>(setup: &'s Setup<'_>, output: &'s Output) -> impl Iterator<Item = (String, &'static EventTime)> + use<'s> {
    let dated = |domain: &&'static Domain| Some((qualified(setup.schema, domain.table), domain.event_time.as_ref()?));
    output.facts.iter().filter_map(dated)
}

#[cfg(test)]
mod tests {
    use freshet_topics::DOMAINS;
    use freshet_topics::pipeline::mistake::Mistakes;

    use super::*;
    use crate::tables::Identity;

    fn output(head: &str, query: &str) -> &'static Output {
        let text = format!("/* freshet\ndescription: it's one\nfacts: [health]\nkey: [day]\n{head}*/ {query}");
        let mut mistakes = Mistakes::of("one.sql");
        let output = Output::read("one.sql", &text, &DOMAINS, &mut mistakes);
        output.unwrap_or_else(|| panic!("{:?}", mistakes.into_sorted()))
    }

    fn setup(schema: &str, allowed_lateness_days: u32) -> Setup<'_> {
        let pipeline = Identity { name: "p", hash: "h" };
        Setup { schema, domains: &DOMAINS, outputs: &[], pipeline, allowed_lateness_days }
    }

    #[test]
    fn the_query_is_asked_for_each_window_of_the_facts() {
        let output = output("windows: [day]\n", "SELECT :window_start AS day, ':window_end' AS text");
        let sql = create(&setup("apart", 7), output, &["day".to_owned(), "te\"xt".to_owned()]);
        assert!(sql.starts_with(
            "CREATE OR REPLACE VIEW \"metrics\".\"one\" AS SELECT o.\"day\", o.\"te\"\"xt\" FROM (SELECT"
        ));
        assert!(sql.contains("FROM \"apart\".\"health_data\" WHERE"), "{sql}");
        assert!(
            sql.ends_with("CROSS JOIN LATERAL (SELECT freshet_window.window_start AS day, ':window_end' AS text) AS o"),
            "{sql}"
        );
    }

    #[test]
    fn a_view_is_made_anew_where_its_definition_or_what_people_read_of_it_changes() {
        let one = output("windows: [day]\n", "SELECT :window_start AS day");
        let same = output("windows: [day]\n", "SELECT  :window_start AS day -- a note");
        assert_eq!(stamp(&setup("public", 7), one), stamp(&setup("public", 7), same));
        assert_eq!(
            stamp(&setup("public", 7), one),
            stamp(&setup("public", 8), one),
            "it does not ask whether it is closed"
        );
        let closing = output("windows: [day]\n", "SELECT :window_start AS day, :is_final AS final");
        assert_ne!(stamp(&setup("public", 7), closing), stamp(&setup("public", 8), closing));
        let others = [
            output("windows: [week]\n", "SELECT :window_start AS day"),
            output("windows: [day]\ncolumns: {day: said}\n", "SELECT :window_start AS day"),
            output("windows: [day]\nhidden: [day]\n", "SELECT :window_start AS day"),
            output("windows: [day]\n", "SELECT :window_end AS day"),
        ];
        for other in others {
            assert_ne!(stamp(&setup("public", 7), one), stamp(&setup("public", 7), other), "{other:?}");
        }
        assert_ne!(stamp(&setup("public", 7), one), stamp(&setup("apart", 7), one));
    }

    #[test]
    fn the_comment_says_whose_the_view_is() {
        let output = output("windows: [day]\ncolumns: {day: \"the day\", gone: x}\n", "SELECT :window_start AS day");
        let stamp = stamp(&setup("public", 7), output);
        let comments = comments(&setup("public", 7), output, &["day".to_owned()]);
        let expected = [
            format!("COMMENT ON VIEW \"metrics\".\"one\" IS 'it''s one\nMade by freshet setup, of definition {stamp}'"),
            "COMMENT ON COLUMN \"metrics\".\"one\".\"day\" IS 'the day'".to_owned(),
        ];
        assert_eq!(comments, expected);
        assert_eq!(stamp_of(&format!("one\n{STAMP_PREFIX}{stamp}")), Some(stamp.as_str()));
        for others in ["", "one", "Made by freshet setup, of definition x"] {
            assert_eq!(stamp_of(others), None, "{others}");
        }
    }
}
