//! The contracts in words: what each column of a domain must contain, and what happens to a value that breaks a rule.

use axum::Json;
use axum::extract::{Path, State};
use freshet_topics::domain::{NearMiss, NewColumn, Overwrite, TextEncoding};
use freshet_topics::{Column, Comparison, Domain, Instead, Limit, Otherwise, Rule};
use serde::Serialize;

use super::ask::{Asked, Refused, absent};

/// A contract, as the page shows it.
#[derive(Debug, Serialize)]
pub(super) struct Contract {
    name: &'static str,
    description: &'static str,
    /// The format of its files, as (name, value).
    facts: Vec<(&'static str, String)>,
    columns: Vec<ColumnInWords>,
    /// Rules over several columns.
    rules: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ColumnInWords {
    name: &'static str,
    description: &'static str,
    kind: &'static str,
    /// Key, reference, other headings.
    notes: Vec<String>,
    /// What happens to missing and unreadable values.
    instead: Vec<String>,
    rules: Vec<String>,
}

/// `GET /page/contracts/DOMAIN`.
pub(super) async fn contract(State(asked): State<Asked>, Path(name): Path<String>) -> Result<Json<Contract>, Refused> {
    let domain = asked.services.config.pipeline.domain(&name).ok_or_else(|| absent("no such domain"))?;
    let patterns: Vec<&str> = asked.services.config.ingest.all_patterns_of(domain).collect();
    Ok(Json(in_words(domain, &patterns)))
}

fn in_words(domain: &Domain, patterns: &[&str]) -> Contract {
    let rules = domain.row_rules.iter().map(|rule| {
        let comparison = match rule.comparison {
            Comparison::AtMost => "at most",
            Comparison::AtLeast => "at least",
        };
        format!("{}: {} {comparison} {}; else {}", rule.name, rule.column, rule.other, otherwise(rule.otherwise))
    });
    Contract {
        name: domain.name,
        description: domain.description,
        facts: facts(domain, patterns),
        columns: domain.columns.iter().map(|column| column_in_words(domain, column)).collect(),
        rules: rules.collect(),
    }
}

fn facts(domain: &Domain, patterns: &[&str]) -> Vec<(&'static str, String)> {
    let encoding = match domain.encoding {
        TextEncoding::Utf8 => "UTF-8",
        TextEncoding::Windows1252 => "Windows-1252",
        TextEncoding::Utf16Le | TextEncoding::Utf16Be => "UTF-16",
    };
    let new_columns = match domain.on_new_column {
        NewColumn::Ignore => "are left out",
        NewColumn::Keep => "are kept in the column extra",
        NewColumn::Add => "are kept, and become columns with the next setup",
        NewColumn::Reject => "reject the file",
    };
    let near_miss = match domain.on_near_miss {
        NearMiss::Reject => "rejects the file, and the column is named",
        NearMiss::Ignore => "is an unknown column",
    };
    let overwritten = match domain.on_overwrite {
        Overwrite::Merge => "keeps rows that are missing in the newer version",
        Overwrite::Replace => "loses rows that are missing in the newer version",
    };
    let facts = [
        ("Files", patterns.join(", ")),
        ("Table", domain.table.to_owned()),
        ("Key", domain.key.join(", ")),
        ("Cells are separated by", char::from(domain.delimiter).to_string()),
        ("Text is", encoding.to_owned()),
        ("Unknown columns", new_columns.to_owned()),
        ("A heading that nearly matches a column", near_miss.to_owned()),
        ("A file that is overwritten", overwritten.to_owned()),
        ("Cells for “not known”", domain.missing_values.join(", ")),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn column_in_words(domain: &Domain, column: &Column) -> ColumnInWords {
    let notes = [
        domain.key.contains(&column.name).then(|| "part of the key".to_owned()),
        column.references.map(|reference| format!("refers to {} of {}", reference.column, reference.domain)),
        (!column.aliases.is_empty()).then(|| format!("also called {}", column.aliases.join(", "))),
        column.decimal_comma.then(|| "with a decimal comma".to_owned()),
        column.personal.then(|| "personal: its values are not shown".to_owned()),
    ];
    let instead = [
        format!("lacking: {}", instead(column.absent, "file")),
        format!("empty: {}", instead(column.empty, "row")),
        format!("unreadable: {}", instead(column.uncastable, "row")),
    ];
    ColumnInWords {
        name: column.name,
        description: column.description,
        kind: column.cast.logical_type(),
        notes: notes.into_iter().flatten().collect(),
        instead: instead.into(),
        rules: column.rules.iter().map(rule).collect(),
    }
}

/// What stands where a cell says nothing.
fn instead(instead: Instead, what: &str) -> String {
    match instead {
        Instead::Reject => format!("the {what} is rejected"),
        Instead::Null => "NULL".to_owned(),
        Instead::Value(value) => value.to_string(),
    }
}

fn rule(rule: &Rule) -> String {
    let limits: Vec<String> = rule.limits.iter().map(limit).collect();
    format!("{}: {}; else {}", rule.name, limits.join(" and "), otherwise(rule.otherwise))
}

fn limit(limit: &Limit) -> String {
    match limit {
        Limit::Minimum(value) => format!("at least {value}"),
        Limit::Maximum(value) => format!("at most {value}"),
        Limit::Above(value) => format!("above {value}"),
        Limit::Below(value) => format!("below {value}"),
        Limit::MinLength(characters) => format!("at least {characters} characters"),
        Limit::MaxLength(characters) => format!("at most {characters} characters"),
        Limit::Pattern(pattern) => format!("like {}", pattern.as_str()),
        Limit::OneOf(values) => {
            format!("one of {}", values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
    }
}

fn otherwise(otherwise: Otherwise) -> &'static str {
    match otherwise {
        Otherwise::Reject => "the row is rejected",
        Otherwise::Null => "the value becomes NULL",
        Otherwise::Zero => "the value becomes 0",
        Otherwise::Cap => "the value becomes the limit",
        Otherwise::Warn => "the value loads and is counted",
        Otherwise::Fail => "the file is rejected",
    }
}

#[cfg(test)]
mod tests {
    use freshet_topics::{DOMAINS, Value};

    use super::*;

    #[test]
    fn every_column_and_every_rule_of_a_contract_is_told() {
        for domain in DOMAINS {
            let contract = in_words(domain, &["prefix/"]);
            assert_eq!(contract.columns.len(), domain.columns.len());
            for (told, column) in contract.columns.iter().zip(domain.columns) {
                assert_eq!((told.name, told.rules.len()), (column.name, column.rules.len()));
                assert!(told.rules.iter().zip(column.rules).all(|(said, rule)| said.starts_with(rule.name)));
                assert!(!domain.key.contains(&column.name) || told.notes[0] == "part of the key", "{}", column.name);
            }
            assert_eq!(contract.rules.len(), domain.row_rules.len());
            assert!(contract.facts.iter().all(|(_, value)| !value.is_empty()));
        }
    }

    #[test]
    fn a_rule_says_what_must_hold_and_what_happens_else() {
        const LIMITS: [Limit; 2] = [Limit::Minimum(&Value::Int(0)), Limit::Maximum(&Value::Int(100))];
        let told = Rule { name: "range", limits: &LIMITS, otherwise: Otherwise::Cap };
        assert_eq!(rule(&told), "range: at least 0 and at most 100; else the value becomes the limit");
        assert_eq!(instead(Instead::Reject, "file"), "the file is rejected");
        assert_eq!(instead(Instead::Value(&Value::Int(3)), "row"), "3");
    }
}
