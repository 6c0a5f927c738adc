//! `freshet replay`: read a topic again while the live pipeline runs.

pub(super) mod bar;
pub(super) mod show;

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use freshet_processors::replay::{self, Point, ProgressSender, ReplayContext, ReplayError, Request, Shadow};
use freshet_sinks::replay::{self as replays, Kind};
use freshet_sinks::tables::record;
use freshet_topics::Domain;
use freshet_topics::causes::in_one_line;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use indicatif::MultiProgress;
use tokio_util::sync::CancellationToken;

use super::confirm::confirm;
use super::domain_arg::{Domains, parse_domains};
use super::halted;
use super::terminal::Look;
use crate::ready;
use crate::roles::{self, Services};

/// Shadows whose rows are counted at once: each reads two tables, with a connection of the pool.
const COUNTED_AT_ONCE: usize = 4;

/// Options of `freshet replay`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["from", "objects", "into", "abandon"]).required(true).multiple(true))]
pub struct ReplayArgs {
    /// Which domain, or all of them
    #[arg(value_name = "DOMAIN", value_parser = parse_domains())]
    domains: Domains,
    /// Start: beginning, a time such as 2026-03-01 or 2026-03-01T00:00:00Z, or offsets such as 0:1200,3:0 (partition:offset)
    #[arg(long, value_name = "POINT")]
    from: Option<Point>,
    /// End, exclusive; default: the bookmarks
    #[arg(long, value_name = "POINT")]
    to: Option<Point>,
    /// Only rows of this file, in all its versions; may be given several times
    #[arg(long = "file", visible_alias = "object", value_name = "KEY")]
    objects: Vec<String>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Examples that --dry-run shows of each kind
    #[arg(long, value_name = "N", default_value_t = 3, requires = "dry_run")]
    examples: u8,
    /// Fill a second table instead of correcting the live one
    #[arg(long, value_name = "WHERE", conflicts_with_all = ["dry_run", "to", "objects"])]
    into: Option<Target>,
    /// With --into shadow: compare the shadow with the live table, once it has caught up
    #[arg(long, requires = "into")]
    compare: bool,
    /// With --into shadow: swap it with the live table once it has caught up; without --yes, compares first and asks
    #[arg(long, requires = "into", conflicts_with = "drop")]
    swap: bool,
    /// With --into shadow: drop the shadow
    #[arg(long, requires = "into")]
    drop: bool,
    /// Give up a replay that was interrupted: what it corrected stays, a shadow is dropped
    #[arg(long, conflicts_with_all = ["from", "to", "objects", "dry_run", "into"])]
    abandon: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Maximum rows per second and domain, to leave the machine to the live pipeline
    #[arg(long, value_name = "N")]
    rows_per_second: Option<NonZeroU32>,
}

/// Where a replay writes to, other than the live table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// A second table, beside the live one.
    Shadow,
}

/// Replays the domains all at once, as they are processed live. Then a person is asked about one shadow after the other.
///
/// # Errors
/// The first domain that cannot be replayed; the others are replayed.
pub async fn run(services: &Services, args: &ReplayArgs, look: Look, shutdown: &CancellationToken) -> Result<ExitCode> {
    // Its lock is a session's.
    ready::require_sessions(&services.pool).await?;
    halted::warn(&services.pool, &args.domains.0).await;
    let contexts: Vec<ReplayContext> =
        args.domains.0.iter().map(|domain| context(services, domain, args.rows_per_second)).collect();
    match (args.abandon || args.drop, args.into) {
        (true, _) => abandon_all(&contexts, args).await,
        (false, Some(Target::Shadow)) => shadows(services, &contexts, args, look, shutdown).await,
        (false, None) => all_in_place(&contexts, args, look, shutdown).await,
    }
}

async fn all_in_place(
    contexts: &[ReplayContext],
    args: &ReplayArgs,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<ExitCode> {
    let bars = MultiProgress::new();
    let each = contexts.iter().map(|context| in_place(context, args, &bars, look, shutdown));
    let mut outcome = Ok(ExitCode::SUCCESS);
    for (context, ended) in contexts.iter().zip(join_all(each).await) {
        match ended.with_context(|| action(context)) {
            Ok(text) => println!("{text}"),
            Err(error) => outcome = also(outcome, error),
        }
    }
    outcome
}

/// Fills all shadows, then compares and swaps them as asked, until a person does not agree.
async fn shadows(
    services: &Services,
    contexts: &[ReplayContext],
    args: &ReplayArgs,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<ExitCode> {
    let bars = MultiProgress::new();
    let filled = join_all(contexts.iter().map(|context| fill(context, args, &bars, shutdown))).await;
    let ready = filled.into_iter().map(|filled| counted(filled, args, shutdown));
    let ready: Vec<Result<Filled>> = stream::iter(ready).buffered(COUNTED_AT_ONCE).collect().await;
    let (mut outcome, mut is_agreed) = (Ok(ExitCode::SUCCESS), true);
    for (context, filled) in contexts.iter().zip(ready) {
        let ended = match filled {
            Ok(_) if !is_agreed => continue,
            Ok(_) if shutdown.is_cancelled() => Err(ReplayError::Interrupted.into()),
            Ok(filled) => finish(services, context, filled, args, look, shutdown).await,
            Err(error) => Err(error),
        };
        match ended.with_context(|| action(context)) {
            Ok(agreed) => is_agreed = agreed,
            Err(error) => outcome = also(outcome, error),
        }
    }
    match is_agreed {
        true => outcome,
        false => outcome.and(Ok(ExitCode::FAILURE)),
    }
}

/// Adds an error to an outcome. The first ends the command with its message; others are told at once.
fn also(outcome: Result<ExitCode>, error: anyhow::Error) -> Result<ExitCode> {
    if outcome.is_err() {
        eprintln!("freshet: {}", in_one_line(error.as_ref()));
    }
    outcome.and(Err(error))
}

async fn abandon_all(contexts: &[ReplayContext], args: &ReplayArgs) -> Result<ExitCode> {
    for context in contexts {
        if !abandon(context, args.drop, args.yes).await.with_context(|| action(context))? {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn action(context: &ReplayContext) -> String {
    format!("replay {}", context.domain.name)
}

/// What a replay of the domain needs.
pub(super) fn context(
    services: &Services,
    domain: &'static Domain,
    rows_per_second: Option<NonZeroU32>,
) -> ReplayContext {
    ReplayContext {
        domain,
        settings: services.config.process.clone(),
        kafka: services.config.kafka.clone(),
        pool: services.pool.clone(),
        owner: roles::instance(),
        rows_per_second,
    }
}

fn request(args: &ReplayArgs) -> Request {
    let from = args.from.clone().unwrap_or(Point::Beginning);
    Request { from, to: args.to.clone(), objects: args.objects.clone() }
}

/// Gives what it did, or would do.
async fn in_place(
    context: &ReplayContext,
    args: &ReplayArgs,
    bars: &MultiProgress,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<String> {
    let (domain, request) = (context.domain, request(args));
    if args.dry_run {
        let work =
            async |progress: &_| replay::preview(context, &request, args.examples.into(), progress, shutdown).await;
        let (preview, took) = bar::during(bars, domain.name, work).await?;
        let files = show::file_names(&context.pool, &preview.examples).await?;
        return Ok(show::preview(domain, &preview, &files, took, look));
    }
    let work = async |progress: &_| replay::in_place(context, &request, progress, shutdown).await;
    let (ended, took) = bar::during(bars, domain.name, work).await?;
    Ok(show::in_place(domain, &ended, took, look))
}

/// A shadow that has caught up.
struct Filled {
    shadow: Shadow,
    progress: ProgressSender,
    /// The rows that were read for it, and how long that took.
    read: (i64, Duration),
    /// The rows of the live table and of the shadow, counted for a swap about which nobody is asked.
    rows: Option<(i64, i64)>,
}

async fn fill(
    context: &ReplayContext,
    args: &ReplayArgs,
    bars: &MultiProgress,
    shutdown: &CancellationToken,
) -> Result<Filled> {
    let mut shadow = Shadow::open(context, &request(args)).await?;
    let (bar, progress) = bar::start(bars, context.domain.name);
    let filled = shadow.fill(&progress, shutdown).await;
    let took = bar.finish().await;
    filled?;
    let read = (progress.borrow().rows, took);
    if args.swap {
        // While those of other domains are still being filled.
        shadow.analyze().await?;
    }
    Ok(Filled { shadow, progress, read, rows: None })
}

/// Counts the rows of a shadow about which nobody is asked before its swap: several count at once, but swap in turn.
async fn counted(filled: Result<Filled>, args: &ReplayArgs, shutdown: &CancellationToken) -> Result<Filled> {
    let mut filled = filled?;
    if args.swap && args.yes && !args.compare {
        // It may have waited for those of other domains.
        filled.shadow.fill(&filled.progress, shutdown).await?;
        filled.rows = Some(filled.shadow.count().await?);
    }
    Ok(filled)
}

/// Compares and swaps, as asked; `false` if a person did not agree.
async fn finish(
    services: &Services,
    context: &ReplayContext,
    filled: Filled,
    args: &ReplayArgs,
    look: Look,
    shutdown: &CancellationToken,
) -> Result<bool> {
    let domain = context.domain;
    let Filled { mut shadow, progress, read: (read, took), rows } = filled;
    println!("{}: the shadow has caught up{}", domain.name, show::at_rate(read, took));
    if !args.compare && !args.swap {
        println!("Look at it as shadow.{}, then add --compare, --swap or --drop to the same command.", domain.table);
        return Ok(true);
    }
    let rows = match rows {
        Some(rows) => rows,
        // A comparison reads all of both tables: it is made for a person who asks for it, or is asked.
        None => {
            let comparison = shadow.compare(&progress, shutdown).await?;
            println!("{}", show::comparison(domain, &comparison, look));
            if args.swap && !confirm(&question(domain, &comparison), args.yes)? {
                return Ok(false);
            }
            (comparison.live_rows, comparison.shadow_rows)
        }
    };
    if args.swap {
        if shutdown.is_cancelled() {
            return Err(ReplayError::Interrupted.into());
        }
        let swapped = shadow.swap(&progress, shutdown).await?;
        println!("{}", show::swapped(domain, rows, &swapped));
        if record::another(&context.pool, services.setup().pipeline).await?.is_some() {
            println!(
                "This pipeline is not the one that was set up last: run `freshet setup`, and restart the roles with it."
            );
        }
    }
    Ok(true)
}

fn question(domain: &Domain, comparison: &freshet_sinks::shadow::Comparison) -> String {
    match comparison.only_live {
        _ if comparison.is_only_counted => format!(
            "Replace {} with its {} rows by the shadow with {}?",
            domain.table, comparison.live_rows, comparison.shadow_rows
        ),
        0 => format!("Replace {} by the shadow?", domain.table),
        rows => format!("Replace {} by the shadow? {rows} rows disappear.", domain.table),
    }
}

async fn abandon(context: &ReplayContext, only_shadow: bool, yes: bool) -> Result<bool> {
    let domain = context.domain;
    let Some(lock) = replays::lock(&context.pool, domain.name).await? else {
        anyhow::bail!("another process is running this replay: stop it first");
    };
    let Some(replay) = replays::unfinished(&context.pool, domain.name).await? else {
        println!("{}: no replay is running", domain.name);
        return Ok(true);
    };
    println!("{}: {}", domain.name, show::unfinished(&replay));
    anyhow::ensure!(
        !only_shadow || replay.kind == Kind::Shadow,
        "this replay does not fill a shadow: end it with --abandon"
    );
    if !confirm("Abandon it?", yes)? {
        return Ok(false);
    }
    let ended = replays::abandon(&context.pool, domain).await?;
    drop(lock);
    println!("{}", show::abandoned(domain, ended.map_or(0, |replay| replay.removed)));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ReplayArgs,
    }

    #[test]
    fn what_is_asked_has_to_fit_together() {
        let parse = |line: &str| Line::try_parse_from(["replay"].into_iter().chain(line.split(' ')));
        for good in [
            "health --from beginning",
            "all --from 2026-03-01T00:00:00Z --to 2026-04-01T00:00:00Z",
            "health --from 2026-03-01",
            "health --from 0:5,1:7 --dry-run --examples 9",
            "health --file health/a.csv --object health/b.csv",
            "health --into shadow",
            "health --into shadow --compare --swap --yes",
            "health --into shadow --drop",
            "health --abandon",
        ] {
            assert!(parse(good).is_ok(), "{good}: {:?}", parse(good).err());
        }
        for bad in [
            "health",
            "weather --from beginning",
            "health --from march",
            "health --from beginning --swap",
            "health --into shadow --swap --drop",
            "health --into shadow --object health/a.csv",
            "health --from beginning --abandon",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let said = parse("health").expect_err("nothing to replay").to_string();
        for option in ["--from", "--file", "--into", "--abandon"] {
            assert!(said.contains(option), "{option}: {said}");
        }
    }
}
