//! `freshet validate FILE…`: what would happen to files if they were dropped, without a server.
//!
//! A file is read, checked and framed as a listener does it ([`freshet_ingest::inspect`]), and its rows are judged as a
//! processor does ([`judge`]): so the report is what would really happen, except for what only the tables can show:
//! rows older than existing ones, and values that the database itself refuses.

mod report;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use freshet_ingest::IngestSettings;
use freshet_ingest::inspect::{self, NotInspected};
use freshet_ingest::names::Name;
use freshet_topics::{Domain, judge};

use super::domain_arg::parse_domain;
use super::terminal::Look;
use crate::config::Config;
pub(crate) use report::Report;

/// Options of `freshet validate`.
#[derive(Debug, Clone, clap::Args)]
pub struct ValidateArgs {
    /// Files to check, as they would be dropped
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Which domain they are of; default: from the path (health/x.csv), else from the header
    #[arg(long, value_name = "DOMAIN", value_parser = parse_domain())]
    domain: Option<&'static Domain>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Maximum number of rejects and corrections to list per file; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    examples: usize,
}

/// Looks at the files. The exit code is 0 if every row of every file loads, else 1.
///
/// # Errors
/// If a file cannot be read from the disk, or nothing says which domain it is of.
pub async fn run(config: &Config, args: &ValidateArgs, look: Look) -> Result<ExitCode> {
    let mut reports = Vec::new();
    for path in &args.files {
        reports.push(look_at(config, args, path).await?);
    }
    match args.json {
        true => {
            let files = serde_json::json!({ "files": reports });
            crate::print::raw(&format!("{}\n", serde_json::to_string_pretty(&files).context("write JSON")?));
        }
        false => {
            for report in &reports {
                println!("{}", show::report(report, look));
            }
        }
    }
    Ok(if reports.iter().all(Report::is_clean) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look_at(config: &Config, args: &ValidateArgs, path: &Path) -> Result<Report> {
    let (settings, domains) = (&config.ingest, config.pipeline.domains);
    let named = match args.domain {
        Some(domain) => Named::Domain(domain),
        None => named(settings, domains, path),
    };
    let domain = match named {
        Named::Domain(domain) => domain,
        Named::NotData(pattern) => return Ok(Report::not_data(path, &pattern)),
        Named::Nothing => match by_header(settings, domains, path).await? {
            Ok(domain) => domain,
            Err(report) => return Ok(report),
        },
    };
    judge_file(config, domain, path, args.examples).await
}

/// Reports on a file of a domain, with at most that many rejects and corrections.
///
/// # Errors
/// If it cannot be read from the disk.
pub(crate) async fn judge_file(
    config: &Config,
    domain: &'static Domain,
    path: &Path,
    examples: usize,
) -> Result<Report> {
    let (settings, domains) = (&config.ingest, config.pipeline.domains);
    let mut report = Report::new(path, domain, examples);
    let inspected =
        inspect::inspect(domain, domains, settings, path, |line, row| report.take(line, row, &judge::row(domain, row)))
            .await;
    match inspected {
        Ok(inspected) => report.end(inspected),
        Err(NotInspected::Rejected(reason)) => report.reject(reason),
        Err(unread @ NotInspected::Unread { .. }) => bail!("{unread}"),
    }
    Ok(report)
}

/// What a path tells about a file.
enum Named {
    Domain(&'static Domain),
    /// It is no data: the pattern that says so.
    NotData(String),
    Nothing,
}

/// What the path says, as a key: with all of its folders, else with fewer and fewer of the first ones.
fn named(settings: &IngestSettings, domains: &[&'static Domain], path: &Path) -> Named {
    let parts: Vec<String> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    for from in 0..parts.len() {
        let key = parts[from..].join("/");
        for domain in domains {
            match settings.name_of(domain, &key) {
                Name::File => return Named::Domain(domain),
                Name::NotData(pattern) => return Named::NotData(pattern.to_owned()),
                Name::Foreign => {}
            }
        }
    }
    Named::Nothing
}

/// The domain whose files have such a header; else a report that says why there is none.
async fn by_header(
    settings: &IngestSettings,
    domains: &[&'static Domain],
    path: &Path,
) -> Result<Result<&'static Domain, Report>> {
    let fitting = inspect::fitting(domains, settings, path).await.map_err(anyhow::Error::new)?;
    match fitting.as_slice() {
        [domain] => return Ok(Ok(domain)),
        [] => {}
        several => {
            let names: Vec<&str> = several.iter().map(|domain| domain.name).collect();
            bail!(
                "{}: its header fits {}: choose one with --domain, or put the file into a folder of that name",
                path.display(),
                names.join(" and ")
            );
        }
    }
    // No CSV at all, which is the same for every domain? Otherwise a person has to say what it is meant to be.
    let mut reasons = Vec::new();
    for domain in domains {
        match inspect::inspect(domain, &[], settings, path, |_, _| ()).await {
            Err(NotInspected::Rejected(reason)) => reasons.push(reason),
            Err(unread) => bail!("{unread}"),
            Ok(_) => {}
        }
    }
    reasons.dedup();
    match reasons.as_slice() {
        [reason] => Ok(Err(Report::of_nobody(path, reason.clone()))),
        _ => {
            let names: Vec<&str> = domains.iter().map(|domain| domain.name).collect();
            bail!(
                "{}: neither its path nor its header shows which domain it belongs to: name the domain with --domain \
                 ({})",
                path.display(),
                names.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_the_domain_by_its_last_folders() {
        let (settings, domains) = (IngestSettings::default(), freshet_topics::domains::all());
        let cases = [
            ("health/a.csv", "health"),
            ("/tmp/out/health/2025/a.csv", "health"),
            ("./hospital/a.csv.gz", "hospital"),
            ("climate/health/a.csv", "climate"),
            ("a.csv", "?"),
            ("helth/a.csv", "?"),
            ("health/_SUCCESS", "no data"),
        ];
        for (path, expected) in cases {
            let found = match named(&settings, domains, Path::new(path)) {
                Named::Domain(domain) => domain.name,
                Named::NotData(_) => "no data",
                Named::Nothing => "?",
            };
            assert_eq!(found, expected, "{path}");
        }
    }
}
