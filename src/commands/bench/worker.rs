//! A role in a process of its own, as it runs in production.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;

use super::cost;
use super::scale::SETTINGS;
use crate::commands::healthcheck;
use crate::commands::terminal::span;
use crate::config::Config;
use crate::roles::Role;

/// The stack is up by then, so that a role only connects.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A role drains for 30 s at most.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);

/// What a process has done until now, or between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Published; 0 of a processor.
    pub(super) files: u64,
    /// Published, or committed.
    pub(super) rows: u64,
}

impl Done {
    /// Reads what a role answers at `/metrics`.
    fn read(metrics: &str) -> Done {
        let sum = |name: &str| {
            let lines = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
        };
        let rows = ["published", "applied", "stale", "rejected"].map(|what| sum(&format!("freshet_rows_{what}_total")));
        Done { files: sum("freshet_objects_published_total"), rows: rows.iter().sum() }
    }

    pub(super) fn since(self, earlier: Done) -> Done {
        Done { files: self.files - earlier.files, rows: self.rows - earlier.rows }
    }
}

/// A running process. Dropping it kills it.
pub(super) struct Worker {
    pub(super) role: Role,
    /// Of those of its role.
    pub(super) number: usize,
    process: tokio::process::Child,
    address: SocketAddr,
}

impl Worker {
    /// Starts one that works for the services of these settings. What it says goes to a log in the folder.
    pub(super) fn start(role: Role, number: usize, config: &Config, folder: &Path) -> Result<Worker> {
        let (name, domain) = role.labels();
        let log = folder.join(format!("{name}{domain}-{number}.log"));
        let log = std::fs::File::create(&log).with_context(|| format!("create file {}", log.display()))?;
        // Whoever takes the port until the role listens makes it fail, and says so.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = address.context("find a free port")?;
        let own = [
            ("http.listen", address.to_string()),
            ("postgres.connections_max", config.postgres.connections_max.to_string()),
            ("metrics.cache_dir", folder.join("cache").display().to_string()),
        ];
        let settings = SETTINGS.map(|(setting, value)| (setting, value.to_owned())).into_iter().chain(own);
        let process = tokio::process::Command::new(std::env::current_exe().context("find this program")?)
            .arg(name)
            .args(Some(domain).filter(|domain| !domain.is_empty()))
            .args(settings.flat_map(|(setting, value)| ["--set".to_owned(), format!("{setting}={value}")]))
            .arg("--data")
            .arg(folder)
            // By these it would take other settings than the benchmark itself.
            .env_remove("FRESHET_CONFIG")
            .env_remove("FRESHET_RAW_BUCKET")
            .envs(services(config))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log file")?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start freshet {name} {domain}"))?;
        Ok(Worker { role, number, process, address })
    }

    /// `ingest 1`, or with the domain: `process NAME 2`.
    pub(super) fn name(&self) -> String {
        let (name, domain) = self.role.labels();
        [name, domain, &self.number.to_string()].into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Until it says that it has all it needs.
    pub(super) async fn ready(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let answer = healthcheck::ask(self.address, "/readyz").await;
            match answer {
                Ok((status, _)) if status == healthcheck::OK => return Ok(()),
                Ok((_, lacks)) if started.elapsed() > READY_TIMEOUT => bail!("{}: {}", self.name(), lacks.trim()),
                Err(error) if started.elapsed() > READY_TIMEOUT => return Err(error.context(self.name())),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    pub(super) async fn done(&self) -> Result<Done> {
        let (_, metrics) = healthcheck::ask(self.address, "/metrics").await.with_context(|| self.name())?;
        Ok(Done::read(&metrics))
    }

    /// Seconds of CPU until now.
    pub(super) fn seconds(&self) -> Result<f64> {
        Ok(cost::of_process(self.id()?)?.0)
    }

    /// SIGTERM, and until it has drained and ended. Gives the seconds of CPU that it has used in its life.
    pub(super) async fn stop(mut self) -> Result<f64> {
        let (id, started) = (self.id()?, Instant::now());
        let pid = Pid::from_raw(id.cast_signed()).context("find the process")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("stop {}", self.name()))?;
        // Waiting for it would take its counters away.
        let seconds = loop {
            match cost::of_process(id)? {
                (seconds, true) => break seconds,
                _ if started.elapsed() > STOP_TIMEOUT => {
                    bail!("{} did not stop within {}", self.name(), span(STOP_TIMEOUT));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        };
        let status = self.process.wait().await.with_context(|| format!("wait for {}", self.name()))?;
        ensure!(status.success(), "{} ended with {status}", self.name());
        Ok(seconds)
    }

    fn id(&self) -> Result<u32> {
        self.process.id().with_context(|| format!("{} has ended", self.name()))
    }
}

/// Where the stack is, as variables that nothing else in the environment wins over.
fn services(config: &Config) -> [(&'static str, &str); 6] {
    [
        ("FRESHET__KAFKA__BROKERS", &config.kafka.brokers),
        ("FRESHET__POSTGRES__URL", config.postgres.url.expose_secret()),
        ("FRESHET__S3__ENDPOINT", &config.s3.endpoint),
        ("FRESHET__S3__REGION", &config.s3.region),
        ("FRESHET__S3__ACCESS_KEY_ID", config.s3.access_key_id.expose_secret()),
        ("FRESHET__S3__SECRET_ACCESS_KEY", config.s3.secret_access_key.expose_secret()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_done_is_the_sum_over_its_domains() {
        let listener = "\
# HELP freshet_rows_published_total Rows acknowledged by Kafka, repeats included.
freshet_objects_published_total{domain=\"a\"} 2
freshet_objects_published_total{domain=\"b\"} 1
freshet_rows_published_total{domain=\"a\"} 30000
freshet_rows_published_total{domain=\"b\"} 500
";
        let listener = Done::read(listener);
        assert_eq!(listener, Done { files: 3, rows: 30_500 });
        let processor = "\
freshet_rows_applied_total{domain=\"a\"} 70
freshet_rows_copied_total{domain=\"a\"} 60
freshet_rows_rejected_total{domain=\"a\",rule=\"x\"} 2
freshet_rows_rejected_total{domain=\"a\",rule=\"y\"} 1
freshet_rows_stale_total{domain=\"a\"} 4
";
        assert_eq!(Done::read(processor), Done { files: 0, rows: 77 });
        assert_eq!(listener.since(Done { files: 1, rows: 500 }), Done { files: 2, rows: 30_000 });
    }
}
