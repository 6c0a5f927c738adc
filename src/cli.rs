//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use freshet_topics::causes::in_one_line;
use tokio_util::sync::CancellationToken;

use crate::commands::bookmarks::{self, BookmarksCommand};
use crate::commands::changes::{self, ChangesArgs};
use crate::commands::compare::{self, CompareArgs};
use crate::commands::demo::Demo;
use crate::commands::domain_arg::{Domains, parse_domains};
use crate::commands::rejects::{self, RejectsCommand};
use crate::commands::replay::{self, ReplayArgs};
use crate::commands::republish::{self, RepublishArgs};
use crate::commands::setup::{self, Mode};
use crate::commands::status::{self, StatusArgs};
use crate::commands::terminal::Look;
use crate::commands::{
    bench, capacity, check, demo, generate, healthcheck, init, lineage, restored, silent, topics, up, validate,
};
use crate::config::{self, Base, Sources};
use crate::http;
use crate::local;
use crate::pipeline;
use crate::print;
use crate::ready;
use crate::roles::{self, Role, Services};
use crate::status::observe;
use crate::telemetry::{self, LogFormat};

/// The heading of the options of every command, after its own options in the help.
const GLOBAL: &str = "Global options";

/// Loads CSV files from S3 into Postgres exactly once, and keeps derived outputs in S3 up to date.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    /// Settings file (TOML); see `freshet check-config --defaults`
    #[arg(long, global = true, help_heading = GLOBAL, env = "FRESHET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, as section.key=value; overrides file and environment (other users can see it: no secrets)
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "SETTING", value_parser = config::parse_set)]
    set: Vec<(String, String)>,
    /// How logs are written to standard error
    #[arg(long, global = true, help_heading = GLOBAL, env = "FRESHET_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Data folder of the local stack
    #[arg(long, global = true, help_heading = GLOBAL, env = "FRESHET_DATA", value_name = "DIR", default_value_os_t = config::default_data_dir())]
    data: PathBuf,
    /// Pipeline folder with contracts and outputs; default: the shipped pipeline
    #[arg(long, global = true, help_heading = GLOBAL, env = pipeline::VARIABLE, value_name = "DIR")]
    pipeline: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine until Ctrl-C: Kafka, Postgres, S3 and all roles
    Up,
    /// Run everything, drop sample files, show them arrive, and stop
    Demo,
    /// Find new files in the raw bucket and publish their rows to Kafka (one role per process)
    Ingest,
    /// Check the rows of one domain's topic, or of all, and write them to Postgres (one role per process)
    Process {
        /// Which domain, or all
        #[arg(value_parser = parse_domains())]
        domain: Domains,
    },
    /// Derive the outputs and publish them to S3 (one role per process)
    Metrics,
    /// Show what `setup` would change in buckets, topics, tables and columns, and what needs a replay
    Plan,
    /// Create missing buckets, topics, schema and tables; report what exists, what was created and what is not allowed
    Setup {
        /// Change nothing; only show what would be created
        #[arg(long)]
        dry_run: bool,
    },
    /// Check whether the role on http.listen is ready: exit code 0 or 1
    Healthcheck,
    /// Bring schema and tables of the database up to date, and nothing else (`setup` does it too)
    Migrate,
    /// Kafka topics
    Topics {
        #[command(subcommand)]
        command: TopicsCommand,
    },
    /// Bookmarks: how far each partition is applied
    Bookmarks {
        #[command(subcommand)]
        command: BookmarksCommand,
    },
    /// Read a topic again: correct the tables by the current rules, or fill a second table
    Replay(ReplayArgs),
    /// Send files again from S3: to undo a newer file, or when a topic no longer holds their rows
    Republish(RepublishArgs),
    /// Rejected rows: list them, export them as CSV, or judge them again
    Rejects {
        #[command(subcommand)]
        command: RejectsCommand,
    },
    /// Show where a row comes from, which rows lost against it, and what was corrected in it
    Lineage(lineage::LineageArgs),
    /// Show what a file changed in its table, or list the files since a time
    Changes(ChangesArgs),
    /// Declare that Postgres was restored from a backup or promoted, so that outputs are published again
    Restored {
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Compare the tables with those of another database, row by row: exit code 0 if they are equal, 2 if not
    Compare(CompareArgs),
    /// Show files, rows, lag and freshness, and what is stuck or halted and why
    Status(StatusArgs),
    /// Check a pipeline folder: report all mistakes, and run its tests
    Check(check::CheckArgs),
    /// Check files without a server, before you drop them: exit code 0 if every row would load, 1 if not
    Validate(validate::ValidateArgs),
    /// Create a pipeline folder, drafted from sample files
    Init(init::InitArgs),
    /// Write realistic sample files
    Generate(generate::GenerateOptions),
    /// Check the settings without connecting to anything
    CheckConfig {
        /// Print every setting with its meaning, unit and default instead
        #[arg(long)]
        defaults: bool,
    },
    /// Print a script that completes freshet's commands and options in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Plan for a load: partitions, processes, cores, and what Kafka and Postgres write and keep
    Capacity(capacity::CapacityOptions),
    /// Measure this machine: rows per second, and the time from a dropped file to its visible rows
    Bench(bench::BenchOptions),
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// Create the topics that are missing, and check the settings of the others
    Create,
}

impl Cli {
    fn sources(&self) -> Sources {
        Sources { file: self.config.clone(), set: self.set.clone() }
    }

    /// Clients for the services that are set, or that run here.
    async fn services(&self) -> anyhow::Result<Services> {
        Services::new(config::load_connected(&self.sources(), &self.data)?).await
    }

    /// The same for a command that a person waits for: services that do not answer are reported soon.
    async fn services_for_people(&self) -> anyhow::Result<Services> {
        let services = self.services().await?;
        tokio::spawn(silent::say(services.clone()));
        Ok(services)
    }
}

/// How long the process waits at its end for threads that block.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Parses the command line, runs the command, and prints an error in one line.
pub fn main() -> ExitCode {
    pipeline::choose(std::env::args_os(), std::env::var_os(pipeline::VARIABLE));
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    print::repeat_options(given_options(&matches));
    let format = cli.log_format;
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            let line = in_one_line(error.as_ref());
            match format {
                LogFormat::Text => eprintln!("freshet: {line}"),
                LogFormat::Json => tracing::error!("{line}"),
            }
            ExitCode::FAILURE
        }
    }
}

/// Where the help of a command has the options of every command.
const ELSEWHERE: &str = "Global options: --config, --set, --log-format, --data and --pipeline; see `freshet --help`.";

/// The command line. The help of a command has its own options, and a line about those of every command.
fn command() -> clap::Command {
    let command = Cli::command();
    let global = command.get_arguments().filter(|argument| argument.is_global_set());
    let global: Vec<Arg> = global.map(|argument| argument.clone().hide(true)).collect();
    with_own_help(command, &global)
}

/// Commands that have an option already do not inherit it: theirs is hidden.
fn with_own_help(command: clap::Command, global: &[Arg]) -> clap::Command {
    command.mut_subcommands(|own| {
        let after = own.get_after_help().map_or(String::new(), |after| format!("{after}\n\n"));
        with_own_help(own.args(global).after_help(format!("{after}{ELSEWHERE}")), global)
    })
}

/// The options by which this process found its stack, as they were given on the command line.
fn given_options(matches: &ArgMatches) -> String {
    let given = |name: &str| {
        let of = |matches: &ArgMatches| {
            let is_given = matches.value_source(name) == Some(ValueSource::CommandLine);
            is_given.then(|| matches.get_one::<PathBuf>(name).cloned()).flatten()
        };
        let value = of(matches).or_else(|| of(matches.subcommand()?.1))?;
        Some(format!("--{name} {}", print::quoted(&value.to_string_lossy())))
    };
    ["data", "config", "pipeline"].into_iter().filter_map(given).collect::<Vec<_>>().join(" ")
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    // Their own output is enough.
    let quiet = matches!(
        cli.command,
        Command::Demo
            | Command::Plan
            | Command::Setup { .. }
            | Command::Compare(_)
            | Command::Status(_)
            | Command::Rejects { .. }
            | Command::Lineage(_)
            | Command::Changes(_)
            | Command::Validate(_)
            | Command::Bench(_)
    );
    let is_look = matches!(cli.command, Command::Status(_));
    let telemetry = telemetry::init(quiet, cli.log_format, Some(runtime.handle()))?;
    let result = runtime.block_on(run(cli));
    telemetry.shutdown();
    // Threads that still wait for Kafka must not keep the process alive, least of all a read-only command.
    runtime.shutdown_timeout(if is_look { Duration::ZERO } else { RUNTIME_SHUTDOWN_TIMEOUT });
    result
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up => up::run(&cli.sources(), &cli.data, shutdown_on_signal()?).await?,
        Command::Demo => run_demo(&cli).await?,
        Command::Ingest => run_roles(&cli, &[Role::Ingest]).await?,
        Command::Process { ref domain } => run_roles(&cli, &processors(domain)).await?,
        Command::Metrics => run_roles(&cli, &[Role::Metrics]).await?,
        Command::Plan => setup::run(&cli.services_for_people().await?, Mode::Plan).await?,
        Command::Setup { dry_run } => {
            let mode = if dry_run { Mode::Plan } else { Mode::Make };
            setup::run(&cli.services_for_people().await?, mode).await?;
        }
        Command::Healthcheck => {
            let config = config::load(&cli.sources(), Base::Production)?;
            healthcheck::run(&config::listened_on(&config.http, &cli.data)).await?;
        }
        Command::Migrate => {
            let services = cli.services_for_people().await?;
            ready::require_sessions(&services.pool).await?;
            roles::migrate(&services).await?;
            println!("the schema is up to date");
        }
        Command::Topics { command: TopicsCommand::Create } => {
            return topics::create(&config::load_connected(&cli.sources(), &cli.data)?).await;
        }
        Command::Bookmarks { ref command } => {
            return bookmarks::run(&cli.services_for_people().await?, command, Look::of_stdout()).await;
        }
        Command::Replay(ref options) => {
            let services = cli.services_for_people().await?;
            return replay::run(&services, options, Look::of_stdout(), &shutdown_on_signal()?).await;
        }
        Command::Rejects { ref command } => {
            let services = cli.services_for_people().await?;
            return rejects::run(&services, command, Look::of_stdout(), &shutdown_on_signal()?).await;
        }
        Command::Lineage(ref options) => {
            return lineage::run(&cli.services_for_people().await?, options, Look::of_stdout()).await;
        }
        Command::Changes(ref options) => {
            return changes::run(&cli.services_for_people().await?, options, Look::of_stdout()).await;
        }
        Command::Republish(ref options) => return republish::run(&cli.services_for_people().await?, options).await,
        Command::Restored { yes } => return restored::run(&cli.services_for_people().await?, yes).await,
        Command::Compare(ref options) => return compare::run(&cli.services_for_people().await?, options).await,
        Command::Status(ref options) => {
            // It says by itself which services do not answer.
            return status::run(&cli.services().await?, options, Look::of_stdout()).await;
        }
        Command::Check(ref args) => {
            let folder = args.folder.as_deref().or(cli.pipeline.as_deref());
            return check::run(folder, config::load_connected(&cli.sources(), &cli.data)).await;
        }
        Command::Validate(ref args) => {
            let config = config::load(&cli.sources(), Base::Production)?;
            return validate::run(&config, args, Look::of_stdout()).await;
        }
        Command::Init(ref args) => init::run(args)?,
        Command::Generate(options) => {
            let written = generate::run(pipeline::sound()?.domains, &options)?;
            print!("{}", written.report(&local::env_file(&cli.data)));
        }
        Command::CheckConfig { defaults: true } => print::raw(config::DEFAULT),
        Command::CheckConfig { defaults: false } => {
            config::load(&cli.sources(), Base::Production)?;
            println!("the settings are valid");
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "freshet", &mut script);
            print::raw(&String::from_utf8_lossy(&script));
        }
        Command::Capacity(ref options) => print!("{}", capacity::run(options, Look::of_stdout())?),
        Command::Bench(options) => {
            let shutdown = shutdown_on_signal()?;
            // Dropped, it kills its stack: without that, a signal to this process alone would leave it running.
            tokio::select! {
                measured = bench::run(&options, Look::of_stdout()) => measured?,
                () = shutdown.cancelled() => anyhow::bail!("interrupted"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The processors of these domains.
fn processors(domains: &Domains) -> Vec<Role> {
    domains.0.iter().map(|domain| Role::Process(domain)).collect()
}

async fn run_roles(cli: &Cli, roles: &[Role]) -> anyhow::Result<()> {
    let mut config = config::load_connected(&cli.sources(), &cli.data)?;
    config.postgres.connections_max = roles::connections_max(&config, roles)?;
    let services = Services::new(config).await?;
    let shutdown = shutdown_on_signal()?;
    if !services.config.http.listen.is_empty() {
        let address = http::serve(&services, roles, Router::new(), shutdown.clone()).await?;
        tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    }
    roles::run(&services, roles, shutdown).await
}

/// Starts everything, shows the demonstration, and stops everything again.
async fn run_demo(cli: &Cli) -> anyhow::Result<()> {
    let shutdown = shutdown_on_signal()?;
    let progress = |line: &str| println!("  {line}");
    let running = up::start(&cli.sources(), &cli.data, progress, shutdown.clone()).await?;
    let services = &running.services;
    let config = &services.config.s3;
    let samples = cli.data.join("samples");
    let look = Look::of_stdout();
    let demo = Demo {
        pipeline: services.config.pipeline,
        pool: &services.pool,
        s3: &services.s3,
        raw_bucket: &config.raw_bucket,
        processed_bucket: &config.processed_bucket,
        samples: &samples,
        places: running.places(),
        look: Look { width: look.width.min(demo::WIDTH_MAX), ..look },
    };
    let put = async |key: &str, path: &Path| demo::put(services, key, path).await;
    let shown = tokio::select! {
        shown = demo::run(&demo, put, async || observe::dropped(services).await, async || observe::outputs(services).await) => shown.map(|_| ()),
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    // If the stack gave up, its error is the cause; the demonstration only knows that it was interrupted.
    running.stop().await.and(shown)
}

/// A token that is cancelled by Ctrl-C or SIGTERM. A second signal ends the process at once.
fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        for round in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if round == 1 {
                std::process::exit(130);
            }
            token.cancel();
        }
    });
    Ok(shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn the_help_of_a_command_has_its_own_options_and_names_those_of_every_command() {
        let names: Vec<String> =
            Cli::command().get_arguments().filter_map(|it| it.get_long()).map(|it| format!("--{it}")).collect();
        assert!(names.len() >= 5 && names.iter().all(|name| ELSEWHERE.contains(name)), "{names:?}");
        for path in [&["status"][..], &["replay"], &["republish"], &["rejects", "list"], &["topics", "create"]] {
            let mut whole = command();
            whole.build();
            let found = path.iter().fold(&mut whole, |it, name| it.find_subcommand_mut(name).expect("a command"));
            for help in [found.render_help(), found.render_long_help()].map(|help| help.to_string()) {
                let (own, elsewhere) = help.split_once("Global options:").expect("a line");
                assert!(own.contains("--help") && !names.iter().any(|name| own.contains(name)), "{help}");
                assert_eq!(elsewhere.trim().lines().count(), 1, "{help}");
            }
        }
        let help = command().render_help().to_string();
        assert!(names.iter().all(|name| help.contains(name)), "{help}");
    }

    #[test]
    fn the_options_of_every_command_may_stand_behind_it() {
        let matches =
            command().try_get_matches_from(["freshet", "rejects", "list", "--data", "here", "--set", "a.b=c"]);
        let cli = Cli::from_arg_matches(&matches.expect("a command")).expect("the options");
        assert_eq!((cli.data, cli.set), (PathBuf::from("here"), vec![("a.b".to_owned(), "c".to_owned())]));
    }

    #[test]
    fn hints_repeat_what_was_given_on_the_command_line_wherever_it_stood() {
        let given = |arguments: &[&str]| {
            let matches = command().try_get_matches_from([&["freshet"], arguments].concat()).expect("a command");
            given_options(&matches)
        };
        assert_eq!(given(&["status"]), "");
        assert_eq!(given(&["--data", "here", "status"]), "--data here");
        let all = ["status", "--pipeline", "p", "--data=a b", "--files", "--config", "c.toml"];
        assert_eq!(given(&all), "--data 'a b' --config c.toml --pipeline p");
    }

    #[test]
    fn every_domain_can_be_processed_alone_and_all_of_them_together() {
        let roles = |name| match Cli::try_parse_from(["freshet", "process", name]).expect(name).command {
            Command::Process { domain } => processors(&domain),
            other => panic!("{other:?}"),
        };
        let domains = pipeline::chosen().domains;
        for domain in domains {
            assert_eq!(roles(domain.name), [Role::Process(domain)]);
        }
        assert_eq!(roles("all"), domains.iter().map(|domain| Role::Process(domain)).collect::<Vec<_>>());
        let error = Cli::try_parse_from(["freshet", "process", "weather"]).expect_err("no such domain");
        assert!(error.to_string().contains("[possible values: locations, climate"), "{error}");
    }
}
