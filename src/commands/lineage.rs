//! `freshet lineage DOMAIN key=value…`: where a row of a table comes from, which rows lost against it, and what was
//! corrected in it.
//!
//! The winning file, version and row come from the table and the ledger. The rows that lost are only in the topic: the
//! partitions that the key may be in are read again, and each row of the key is judged by the rules of this program.
//! Rows removed by retention are not known any more.

mod read;
mod show;

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use freshet_topics::judge::{self, Notes};
use freshet_topics::{Cell, Domain, Instead, Value};

use super::domain_arg::parse_domain;
use super::terminal::Look;
use crate::roles::Services;

/// Options of `freshet lineage`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit code: 0 if the table or the topic has a row of the key, 1 if not.")]
pub struct LineageArgs {
    /// Which domain
    #[arg(value_name = "DOMAIN", value_parser = parse_domain())]
    domain: &'static Domain,
    /// The row's key, such as location_id=1 date=2025-03-01; a column that you leave out has the value that it has for a file
    /// without that column
    #[arg(value_name = "COLUMN=VALUE", required = true)]
    key: Vec<String>,
    /// Only look at the table and the ledger: do not read the topic for the rows that lost
    #[arg(long)]
    table_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what it found. The exit code is 1 if neither the table nor the topic has a row of the key.
///
/// # Errors
/// If the key is not one of the domain, or a service does not answer.
pub async fn run(services: &Services, args: &LineageArgs, look: Look) -> Result<ExitCode> {
    let domain = args.domain;
    let cells = cells(domain, &args.key)?;
    let key = match key(domain, &cells) {
        Ok(key) => key,
        Err(error) => bail!("{error}: {}", read::rejected_with(&services.pool, domain, &error).await?),
    };
    // The bookmarks come first: a row before them is in the table when that is read.
    let topic = match args.table_only {
        true => None,
        false => Some(read::topic(services, domain, &key).await?),
    };
    let row = read::row(services, domain, &key).await.context("read the row of the table")?;
    let sent = match &topic {
        None => None,
        Some(topic) => Some(read::sent(services, domain, &key, topic, row.as_ref()).await?),
    };
    let unread = read::unread(&services.pool, domain).await.context("look for files that are not read yet")?;
    let found = read::KeyLineage::new(domain, &key, row, sent, unread);
    match args.json {
        true => crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&found).context("write JSON")?)),
        false => println!("{}", show::lineage(&found, look)),
    }
    Ok(if found.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One cell for each column of the key, in its order.
fn cells<'w>(domain: &'static Domain, words: &'w [String]) -> Result<Vec<Cell<'w>>> {
    let columns = || domain.key.join(", ");
    let mut given = Vec::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            bail!("`{word}` is not COLUMN=VALUE: write the key as COLUMN=VALUE, for example {}=1", domain.key[0]);
        };
        ensure!(
            domain.key.contains(&name),
            "`{name}` is not a column of the key of {}, which is {}",
            domain.name,
            columns()
        );
        given.push((name, value));
    }
    let cell = |name: &&'static str| match given.iter().find(|(given, _)| given == name) {
        Some((_, value)) => Ok(Cell::Text((*value).into())),
        None if domain.columns[domain.index_of(name)].absent != Instead::Reject => Ok(Cell::Absent),
        None => bail!("the key of {} is {}: {name} is missing", domain.name, columns()),
    };
    domain.key.iter().map(cell).collect()
}

/// A row with this in its key is rejected.
#[derive(Debug)]
struct NotAValue {
    column: &'static str,
    text: String,
    rule: &'static str,
}

impl fmt::Display for NotAValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotAValue { column, text, rule } = self;
        match text.is_empty() {
            true => write!(formatter, "an empty cell is not a value of {column} ({rule})"),
            false => write!(formatter, "`{text}` is not a value of {column} ({rule})"),
        }
    }
}

/// Their values, read as those of a file are.
fn key<'c>(domain: &'static Domain, cells: &'c [Cell<'_>]) -> Result<Vec<Value<'c>>, NotAValue> {
    let value = |(name, cell): (&&'static str, &'c Cell<'_>)| {
        let column = &domain.columns[domain.index_of(name)];
        judge::cell(column, cell, &mut Notes::default()).map_err(|refused| {
            let text = match cell {
                Cell::Text(text) => text.to_string(),
                Cell::Absent | Cell::Missing => String::new(),
            };
            NotAValue { column: name, text, rule: refused.rule }
        })
    };
    domain.key.iter().zip(cells).map(value).collect()
}

#[cfg(test)]
mod tests {
    use freshet_topics::domains;

    use super::*;

    #[test]
    fn a_key_is_read_as_a_file_is() {
        let health = domains::by_name("health").expect("declared");
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let cells = cells(health, &words)?;
            let values = key(health, &cells).map_err(|error| anyhow::anyhow!("{error}"))?;
            Ok::<_, anyhow::Error>(values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let whole = read(&["date=2025-03-01", "location_id=01"]).expect("a key");
        assert!(whole.starts_with("1 2025-03-01"), "{whole}");
        assert_eq!(read(&["location_id=1.0", "date=2025-03-01 00:00:00"]).ok(), Some(whole));
        for (words, expected) in [
            (&["location_id=1"][..], "date is missing"),
            (&["location_id=x", "date=2025-03-01"], "`x` is not a value of location_id (uncastable)"),
            (&["location_id=", "date=2025-03-01"], "an empty cell is not a value of location_id (required_empty)"),
            (&["dengue_cases=1"], "is not a column of the key of health"),
            (&["1"], "`1` is not COLUMN=VALUE: write the key as COLUMN=VALUE, for example location_id=1"),
        ] {
            let said = read(words).expect_err(expected).to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
