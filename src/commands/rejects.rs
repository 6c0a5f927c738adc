//! `freshet rejects`: list rows that did not load, export them as CSV to correct them, or have them judged again.

mod csv;
mod export;
mod extent;
mod files;
mod list;
mod retry;
mod select;
mod without;

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use freshet_topics::Domain;
use tokio_util::sync::CancellationToken;

pub(crate) use export::csv_of;
pub(crate) use select::of_object;

use super::domain_arg::{Domains, parse_domain, parse_domains};
use super::named;
use super::terminal::Look;
use super::time_arg::parse_time;
use crate::roles::Services;

/// What to do with rejects.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum RejectsCommand {
    /// List rejected rows, the newest first: file, line, column, value and rule
    #[command(after_help = "Exit code: 0, or 1 if a file that --file names is unknown.")]
    List {
        /// Which domain, or all
        #[arg(value_name = "DOMAIN", default_value = "all", value_parser = parse_domains())]
        domains: Domains,
        #[command(flatten)]
        which: Which,
        /// Maximum number of rows to show; all are counted
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Export rejected rows as CSV, with the original cells and the reasons, to correct and drop again
    #[command(after_help = "Exit code: 0, or 1 if a file that --file names is unknown; then nothing is written.")]
    Export {
        /// Which domain
        #[arg(value_name = "DOMAIN", value_parser = parse_domain())]
        domain: &'static Domain,
        #[command(flatten)]
        which: Which,
        /// A folder, in which each file that has rejects gets a CSV under DOMAIN/; unless given, one CSV on standard output
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print JSON: what was written, with --out; else the rejects
        #[arg(long)]
        json: bool,
    },
    /// Load rejected rows that the current rules accept: replays their part of the topic in place
    #[command(
        after_help = "An interrupted retry of the domain, or a replay in place with offsets at both ends, is continued first, \
                      except with --dry-run.\n\n\
                      Exit code: 0, or 1 if a file that --file names is unknown or you answer no."
    )]
    Retry {
        /// Which domain, or all
        #[arg(value_name = "DOMAIN", value_parser = parse_domains())]
        domains: Domains,
        #[command(flatten)]
        which: Which,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which rejects; all of the domain unless something is given.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Which {
    /// Only rows of this file, in all its versions; * stands for any characters; may be given several times
    #[arg(long = "file", visible_alias = "object", value_name = "KEY")]
    files: Vec<String>,
    /// Only rows rejected by this rule, such as uncastable; may be given several times
    #[arg(long = "rule", value_name = "RULE")]
    rules: Vec<String>,
    /// Only rows rejected then or later, as 2026-03-01 or 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
    /// Only rows rejected before
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,
}

impl Which {
    /// The same, its files by the keys that are meant.
    fn with_keys(&self, services: &Services) -> Which {
        Which { files: self.files.iter().map(|it| named::key(services, it).to_owned()).collect(), ..self.clone() }
    }

    /// The names of files, as LIKE takes them.
    fn like(&self) -> Vec<String> {
        self.files.iter().map(|file| named::like(file)).collect()
    }

    /// Whether not all rejected rows of the files are meant.
    fn is_narrowed(&self) -> bool {
        !self.rules.is_empty() || self.since.is_some() || self.until.is_some()
    }
}

/// Runs the command.
///
/// # Errors
/// If a service does not answer, or a file cannot be written.
pub async fn run(
    services: &Services,
    command: &RejectsCommand,
    look: Look,
    shutdown: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let (RejectsCommand::List { which, .. }
    | RejectsCommand::Export { which, .. }
    | RejectsCommand::Retry { which, .. }) = command;
    let which = &which.with_keys(services);
    match command {
        RejectsCommand::List { domains, limit, json, .. } => {
            list::run(services, &domains.0, which, *limit, *json, look).await
        }
        RejectsCommand::Export { domain, out, json, .. } => {
            export::run(services, domain, which, out.as_deref(), *json).await
        }
        RejectsCommand::Retry { domains, dry_run, yes, json, .. } => {
            let how = retry::How { dry_run: *dry_run, yes: *yes, json: *json };
            retry::run(services, &domains.0, which, how, look, shutdown).await
        }
    }
}
