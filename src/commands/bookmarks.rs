//! `freshet bookmarks`: show how far each partition is applied, and set it by hand.

pub mod adopt;
mod list;
mod set;

use std::process::ExitCode;

use freshet_topics::Domain;

use super::domain_arg::{Domains, parse_domain, parse_domains};
use super::terminal::Look;
use crate::roles::Services;

/// What to do with bookmarks.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BookmarksCommand {
    /// Show each partition's bookmark, what Kafka's group has committed, and where the log begins and ends
    List {
        /// Which domain, or all
        #[arg(value_name = "DOMAIN", default_value = "all", value_parser = parse_domains())]
        domains: Domains,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Move bookmarks: back reads records again, forward skips them (the roles may be running)
    Set {
        /// Which domain
        #[arg(value_parser = parse_domain())]
        domain: &'static Domain,
        /// Which partition; may be given several times; all unless given
        #[arg(long = "partition", value_name = "N")]
        partitions: Vec<i32>,
        /// Where to: an offset, beginning or end
        #[arg(long, value_name = "OFFSET")]
        to: set::Target,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// End a halt: accept the domain's topic as it is now, and publish again every file that was not fully applied
    Adopt {
        /// Which domain, or all
        #[arg(value_name = "DOMAIN", value_parser = parse_domains())]
        domains: Domains,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// If Kafka or Postgres does not answer.
pub async fn run(services: &Services, command: &BookmarksCommand, look: Look) -> anyhow::Result<ExitCode> {
    match command {
        BookmarksCommand::List { domains, json } => list::run(services, &domains.0, *json, look).await,
        BookmarksCommand::Set { domain, partitions, to, yes } => {
            set::run(services, domain, partitions, *to, *yes).await
        }
        BookmarksCommand::Adopt { domains, yes } => {
            for domain in &domains.0 {
                if !adopt::run(services, domain, *yes).await? {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
