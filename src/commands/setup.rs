//! `freshet setup`: prepares the services in the settings, so that the roles can start: the two buckets with their
//! versioning, the event queue, the topics, the schema, and the domains' tables.
//!
//! Each resource gets a line: found, created, or not allowed; setup continues after refusals. A table's steps are
//! listed below it. Existing resources are never recreated, emptied or narrowed: versioning is turned on, and changes
//! of the database are made in one transaction or not at all. So it can be run any number of times, also twice at once.
//! `freshet plan` is its dry run.

mod buckets;
mod queue;
mod schema;
mod tables;
mod topics;

use std::fmt;

use crate::roles::Services;

/// Whether what is missing is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A dry run: nothing is changed, and what would be made is said.
    Plan,
    /// It is made.
    Make,
}

/// The result for a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It existed, as wanted.
    Found,
    /// It was made, or brought to what is wanted.
    Made,
    /// It would be made: this was a dry run.
    Would,
    /// It is not as wanted, but freshet does not need it.
    Warns,
    /// It exists and can be used, but is not as wanted, and may not or will not be changed.
    Differs,
    /// It does not exist or cannot be looked at: roles that need it will not start.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind of resource: bucket, topic, schema.
    pub kind: &'static str,
    pub name: String,
    pub standing: Standing,
    /// The same for people, and what to do.
    pub said: String,
    /// The steps that were or would be taken, and further notes.
    pub details: Vec<String>,
}

impl Finding {
    fn new(kind: &'static str, name: &str, standing: Standing, said: impl Into<String>) -> Finding {
        Finding { kind, name: name.to_owned(), standing, said: said.into(), details: Vec::new() }
    }

    fn with(self, details: impl IntoIterator<Item = String>) -> Finding {
        Finding { details: details.into_iter().collect(), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.kind, self.name, self.said)?;
        match self.standing {
            Standing::Warns | Standing::Differs | Standing::Failed => {
                self.details.iter().try_for_each(|detail| write!(formatter, "; {detail}"))
            }
            Standing::Found | Standing::Made | Standing::Would => Ok(()),
        }
    }
}

/// Looks at everything and, with [`Mode::Make`], creates what is missing. Never fails: errors are findings.
pub async fn prepare(services: &Services, mode: Mode) -> Vec<Finding> {
    let (buckets, topics, schema) = tokio::join!(
        buckets::prepare(services, mode),
        topics::prepare(services, mode),
        schema::prepare(services, mode),
    );
    // After the buckets: the raw one tells the queue.
    let queue = queue::prepare(services, mode).await;
    let mut findings = [buckets, queue, topics, schema].concat();
    topics::say_whose(services, &mut findings).await;
    findings
}

/// `freshet setup`.
///
/// # Errors
/// If anything is not as wanted in the end (or, for a dry run, would not be), with its names.
pub async fn run(services: &Services, mode: Mode) -> anyhow::Result<()> {
    let findings = prepare(services, mode).await;
    print!("{}", table(&findings));
    println!();
    println!("{}", summary(&findings, mode));
    let wrong: Vec<String> = wrong(&findings).map(|it| format!("{} {}", it.kind, it.name)).collect();
    anyhow::ensure!(wrong.is_empty(), "not as wanted: {} (see above)", wrong.join(", "));
    Ok(())
}

fn wrong(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|it| matches!(it.standing, Standing::Differs | Standing::Failed))
}

/// A line a thing, in columns, with its details below.
fn table(findings: &[Finding]) -> String {
    let width = |text: fn(&Finding) -> &str| findings.iter().map(|it| text(it).chars().count()).max().unwrap_or(0);
    let (kind, name) = (width(|it| it.kind), width(|it| &it.name));
    let line = |it: &Finding| {
        let details: String = it.details.iter().map(|detail| format!("    {detail}\n")).collect();
        format!("{:kind$}  {:name$}  {}\n{details}", it.kind, it.name, it.said)
    };
    findings.iter().map(line).collect()
}

fn summary(findings: &[Finding], mode: Mode) -> String {
    let count = |standing| findings.iter().filter(|it| it.standing == standing).count();
    let (all, wrong) = (findings.len(), wrong(findings).count());
    let done = match (mode, count(Standing::Made), count(Standing::Would)) {
        (Mode::Plan, _, 0) => "a dry run: nothing would be prepared".to_owned(),
        (Mode::Plan, _, would) => format!("a dry run: {would} of {all} would be prepared"),
        (Mode::Make, 0, _) => "nothing prepared".to_owned(),
        (Mode::Make, made, _) => format!("{made} of {all} prepared"),
    };
    let done = match count(Standing::Warns) {
        0 => done,
        1 => format!("{done}, 1 warning"),
        warnings => format!("{done}, {warnings} warnings"),
    };
    match wrong {
        0 if count(Standing::Found) == all => "nothing to do; everything is as wanted".to_owned(),
        0 => format!("{done}; everything else is as wanted"),
        wrong => format!("{done}; {wrong} of {all} not as wanted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(standings: &[Standing]) -> Vec<Finding> {
        standings.iter().map(|standing| Finding::new("bucket", "s3://b", *standing, "said")).collect()
    }

    #[test]
    fn the_summary_counts() {
        use Standing::{Differs, Failed, Found, Made, Warns, Would};
        let cases: &[(&[Standing], Mode, &str)] = &[
            (&[Found, Found], Mode::Make, "nothing to do; everything is as wanted"),
            (&[Found, Made], Mode::Make, "1 of 2 prepared; everything else is as wanted"),
            (&[Found, Would], Mode::Plan, "a dry run: 1 of 2 would be prepared; everything else is as wanted"),
            (&[Found], Mode::Plan, "nothing to do; everything is as wanted"),
            (&[Made, Differs, Failed], Mode::Make, "1 of 3 prepared; 2 of 3 not as wanted"),
            (&[Differs], Mode::Plan, "a dry run: nothing would be prepared; 1 of 1 not as wanted"),
            (&[Found, Warns], Mode::Make, "nothing prepared, 1 warning; everything else is as wanted"),
            (&[Found, Failed], Mode::Make, "nothing prepared; 1 of 2 not as wanted"),
        ];
        for (standings, mode, expected) in cases {
            assert_eq!(summary(&findings(standings), *mode), *expected, "{standings:?}");
        }
    }

    #[test]
    fn the_columns_are_aligned() {
        let lines = [
            Finding::new("bucket", "s3://a-long-one", Standing::Found, "found"),
            Finding::new("schema", "db", Standing::Made, "created").with(["add column a".to_owned()]),
        ];
        assert_eq!(
            table(&lines),
            "bucket  s3://a-long-one  found\nschema  db               created\n    add column a\n"
        );
    }
}
