//! Finds the programs that the local stack runs; `make setup` (`scripts/setup`) puts them there.
//!
//! Kafka and SeaweedFS are in the cache folder `$FRESHET_HOME`, else `$XDG_CACHE_HOME/freshet`, else
//! `~/.cache/freshet`, in the versions named here; Java and PostgreSQL are the system's.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

/// As in `local/kafka/pom.xml`.
pub(super) const KAFKA_VERSION: &str = "4.1.1";
/// As in `scripts/setup`.
pub(super) const SEAWEEDFS_VERSION: &str = "4.48";

/// The programs of the parts that were asked for.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) java: PathBuf,
    pub(super) kafka_dir: PathBuf,
    /// One for each major version installed, the highest first.
    pub(super) postgres: Vec<Postgres>,
    pub(super) weed: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postgres {
    pub(super) major: u32,
    pub(super) bin: PathBuf,
}

/// Looks for all that the asked parts need; fails with one line that names everything missing.
pub(super) fn find(kafka: bool, postgres: bool, s3: bool) -> anyhow::Result<Components> {
    let cache = cache_dir();
    let mut missing = Vec::new();
    let java = java();
    let kafka_dir = cache.join(format!("kafka-{KAFKA_VERSION}"));
    let weed = cache.join(format!("seaweedfs-{SEAWEEDFS_VERSION}")).join("weed");
    if kafka && java.is_none() {
        missing.push("Java 17 (no `java` on PATH)".to_owned());
    }
    if kafka && !kafka_dir.join("libs").is_dir() {
        missing.push(format!("Apache Kafka ({})", kafka_dir.display()));
    }
    let found = if postgres { installed_postgres() } else { Vec::new() };
    if postgres && found.is_empty() {
        missing.push("PostgreSQL (no `initdb` on PATH or in /usr/lib/postgresql)".to_owned());
    }
    if s3 && !weed.is_file() {
        missing.push(format!("SeaweedFS ({})", weed.display()));
    }
    if !missing.is_empty() {
        bail!("the local stack needs {}: run `make setup`", missing.join(", "));
    }
    Ok(Components { java: java.unwrap_or_default(), kafka_dir, postgres: found, weed })
}

/// The folder that `make setup` fetches programs into.
pub fn cache_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FRESHET_HOME")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("freshet")))
        .unwrap_or_else(|| set("HOME").unwrap_or_default().join(".cache/freshet"))
}

fn java() -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    home.filter(|java| java.is_file()).or_else(|| on_path("java"))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn installed_postgres() -> Vec<Postgres> {
    let mut bins: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    // Through symbolic links: initdb looks for `postgres` beside itself.
    bins.extend(on_path("initdb").and_then(|initdb| Some(initdb.canonicalize().ok()?.parent()?.to_owned())));
    let mut found: Vec<Postgres> =
        bins.into_iter().filter_map(|bin| Some(Postgres { major: major(&bin)?, bin })).collect();
    found.sort_by_key(|postgres| std::cmp::Reverse(postgres.major));
    found.dedup_by_key(|postgres| postgres.major);
    found
}

fn major(bin: &Path) -> Option<u32> {
    if !bin.join("initdb").is_file() {
        return None;
    }
    let output = std::process::Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is 15.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(2)?;
    version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_version_is_read() {
        for (text, expected) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("", None),
        ] {
            assert_eq!(parse_major(text), expected, "{text}");
        }
    }

    #[test]
    fn the_versions_are_those_that_setup_installs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pom = fs::read_to_string(root.join("local/kafka/pom.xml")).expect("pom");
        assert!(pom.contains(&format!("<kafka.version>{KAFKA_VERSION}</kafka.version>")));
        let setup = fs::read_to_string(root.join("scripts/setup")).expect("setup");
        assert!(setup.contains(&format!("seaweedfs_version={SEAWEEDFS_VERSION}\n")));
    }
}
