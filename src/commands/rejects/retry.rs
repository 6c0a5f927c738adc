//! `freshet rejects retry`: loads rejects that changed rules now accept.
//!
//! It is a replay in place ([`freshet_processors::replay`]) of the part of the topic that holds the rejects, restricted to
//! their files. So it has the guarantees of a replay: old data never overwrites new data, a row counts once, and rows
//! of these files in this part that the rules now refuse are removed from the table.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result};
use freshet_processors::replay::{self, Point, Request};
use freshet_topics::Domain;
use indicatif::MultiProgress;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::select::{self, Reject};
use super::{Which, without};
use crate::commands::confirm::confirm;
use crate::commands::halted;
use crate::commands::replay::{bar, context, show};
use crate::commands::terminal::{Look, counted, thousands};
use crate::ready;
use crate::roles::Services;

/// Files that a replay is restricted to by name; of more, all rows of the range are judged again.
const FILES_MAX: usize = 1_000;
/// Examples that a dry run shows of each kind.
const EXAMPLES: usize = 3;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    pub(super) json: bool,
}

pub(super) async fn run(
    services: &Services,
    domains: &[&'static Domain],
    which: &Which,
    how: How,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<ExitCode> {
    // The lock of a replay is a session's.
    ready::require_sessions(&services.pool).await?;
    if !without::tell(services, domains, which).await? {
        return Ok(ExitCode::FAILURE);
    }
    halted::warn(&services.pool, domains).await;
    let mut done = Vec::new();
    for domain in domains {
        let ended = of_domain(services, domain, which, how, look, shutdown).await;
        match ended.with_context(|| format!("retry the rejects of {}", domain.name))? {
            Some(outcome) => done.push(outcome),
            None => return Ok(ExitCode::FAILURE),
        }
    }
    if how.json {
        crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&done).context("write JSON")?));
    }
    Ok(ExitCode::SUCCESS)
}

/// The result; `None` if the user did not agree.
async fn of_domain(
    services: &Services,
    domain: &'static Domain,
    which: &Which,
    how: How,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<Option<Value>> {
    let context = context(services, domain, None);
    let topic = domain.topic(&services.config.kafka.topic_prefix);
    let mut rejects = select::read(&services.pool, &[domain], which, None).await.context("read the rejects")?;
    // Messages that are not rows, and rows of another topic, cannot be judged again.
    rejects.retain(|reject| reject.file.is_some() && reject.topic == topic);
    let Some(request) = request(&rejects) else {
        if !how.json {
            println!("{}: no such row was rejected", domain.name);
        }
        return Ok(Some(json!({ "domain": domain.name, "rejects": 0, "load_now": 0 })));
    };
    let what =
        format!("{} of {}", counted(rejects.len() as i64, "reject"), counted(request.objects.len() as i64, "file"));
    if how.dry_run {
        let (bar, progress) = bar::start(&MultiProgress::new(), domain.name);
        let preview = replay::preview(&context, &request, EXAMPLES, &progress, shutdown).await;
        let took = bar.finish().await;
        let preview = preview?;
        if !how.json {
            let names = show::file_names(&context.pool, &preview.examples).await?;
            println!("{}: {what} would be judged again", domain.name);
            println!("{}", show::preview(domain, &preview, &names, took, look));
        }
        let would_load: u64 = preview.corrected.accepted_anew.values().sum();
        return Ok(Some(json!({ "domain": domain.name, "rejects": rejects.len(), "would_load": would_load })));
    }
    if !how.json {
        println!(
            "{}: {what} will be judged again by the rules of this program, and so will the other rows of these files \
             between them in the topic; newer data is not overwritten",
            domain.name
        );
    }
    if !confirm("Judge them again?", how.yes)? {
        return Ok(None);
    }
    let (bar, progress) = bar::start(&MultiProgress::new(), domain.name);
    let ended = replay::in_place(&context, &request, &progress, shutdown).await;
    let took = bar.finish().await;
    let replay = ended?;
    let still = still_rejected(services, domain, &rejects).await?;
    let loaded = rejects.len() as i64 - still;
    if !how.json {
        println!("{}", show::in_place(domain, &replay, took, look));
        println!("{}: {} now load, {} are still rejected", domain.name, thousands(loaded), thousands(still));
    }
    Ok(Some(json!({ "domain": domain.name, "rejects": rejects.len(), "load_now": loaded, "still_rejected": still })))
}

/// The part of the topic that holds them, of their files; `None` if there are none.
fn request(rejects: &[Reject]) -> Option<Request> {
    let mut spans: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for Reject { partition, offset, .. } in rejects {
        let (from, to) = spans.entry(*partition).or_insert((*offset, offset + 1));
        (*from, *to) = ((*from).min(*offset), (*to).max(offset + 1));
    }
    let mut objects: Vec<String> = rejects.iter().filter_map(|reject| reject.file.clone()).collect();
    objects.sort();
    objects.dedup();
    if objects.len() > FILES_MAX {
        objects.clear();
    }
    let offsets =
        |pick: fn(&(i64, i64)) -> i64| Point::Offsets(spans.iter().map(|(at, span)| (*at, pick(span))).collect());
    let (from, to) = (offsets(|span| span.0), offsets(|span| span.1));
    (!spans.is_empty()).then_some(Request { from, to: Some(to), objects })
}

/// How many of them are rejects still.
async fn still_rejected(services: &Services, domain: &Domain, rejects: &[Reject]) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM pipeline.rejects r
         JOIN UNNEST($2::bigint[], $3::integer[], $4::bigint[]) AS u (object, generation, row)
            ON r.object = u.object AND r.generation = u.generation AND r.row = u.row
         WHERE r.domain = $1",
    )
    .bind(domain.name)
    .bind(rejects.iter().map(|reject| reject.object).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.generation).collect::<Vec<_>>())
    .bind(rejects.iter().map(|reject| reject.row).collect::<Vec<_>>())
    .fetch_one(&services.pool)
    .await
    .context("count what is still rejected")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn the_smallest_part_of_the_topic_that_holds_them_is_read() {
        let reject = |file: &str, partition: i32, offset: i64| Reject {
            domain: "health".into(),
            file: Some(file.into()),
            object: 1,
            generation: 1,
            row: 0,
            line: 2,
            column: None,
            value: None,
            rule: "r".into(),
            rejected_at: DateTime::default(),
            raw: "{}".into(),
            topic: "t".into(),
            partition,
            offset,
        };
        assert_eq!(request(&[]), None);
        let rejects = [reject("b", 0, 7), reject("a", 3, 1), reject("b", 0, 12), reject("a", 0, 9)];
        assert_eq!(request(&rejects).expect("some").to_string(), r#"from 0:7,3:1 to 0:13,3:2 of ["a", "b"]"#);
    }
}
