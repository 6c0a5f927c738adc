//! The compose file keeps to the specification, to freshet's settings, and to the rules written above it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::parts::home;

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");
pub(crate) const FRESHET: &str = env!("CARGO_BIN_EXE_freshet");

/// What is looked at of the compose file, anchors and merges resolved, variables as they stand.
#[derive(Debug, Deserialize)]
pub(crate) struct Compose {
    pub(crate) services: BTreeMap<String, Service>,
    networks: BTreeMap<String, serde_json::Value>,
    volumes: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    image: String,
    build: Option<String>,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    networks: Vec<String>,
    pub(crate) healthcheck: Option<Healthcheck>,
    pub(crate) stop_grace_period: Option<String>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    cap_drop: Vec<String>,
    #[serde(default)]
    security_opt: Vec<String>,
    restart: String,
    logging: serde_json::Value,
    #[serde(default)]
    pub(crate) deploy: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    condition: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Healthcheck {
    pub(crate) test: Vec<String>,
    pub(crate) start_period: String,
}

pub(crate) fn text() -> String {
    fs::read_to_string(Path::new(ROOT).join("docker-compose.yml")).expect("read docker-compose.yml")
}

pub(crate) fn compose() -> Compose {
    serde_saphyr::from_str(&text()).expect("docker-compose.yml is YAML")
}

impl Compose {
    /// The services that are roles of freshet.
    pub(crate) fn roles(&self) -> BTreeMap<&str, &Service> {
        let is_role = |service: &&Service| service.build.is_some() && service.command != ["setup"];
        self.services.iter().map(|(name, service)| (name.as_str(), service)).filter(|(_, it)| is_role(it)).collect()
    }
}

/// A variable as the file refers to it: `${NAME:-default}` or `${NAME:?what to do}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    name: String,
    default: Option<String>,
}

/// Splits a value into text and references; panics where it has another form of them.
fn parse(value: &str) -> Vec<Result<String, Reference>> {
    let mut parts = Vec::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        let after = after.strip_prefix('{').unwrap_or_else(|| panic!("{value}: write ${{NAME:?…}}"));
        let (inside, behind) = after.split_once('}').unwrap_or_else(|| panic!("{value}: a brace is not closed"));
        let (name, default) = match (inside.split_once(":?"), inside.split_once(":-")) {
            (Some((name, _)), _) => (name, None),
            (_, Some((name, default))) => (name, Some(default.to_owned())),
            _ => panic!("{value}: {inside} may be empty"),
        };
        parts.extend([Ok(before.to_owned()), Err(Reference { name: name.to_owned(), default })]);
        rest = behind;
    }
    parts.push(Ok(rest.to_owned()));
    parts
}

/// The value with the variables filled in, as compose does it.
pub(crate) fn filled(value: &str, variables: &BTreeMap<String, String>) -> String {
    let fill = |part| match part {
        Ok(text) => text,
        Err(Reference { name, default }) => {
            variables.get(&name).cloned().or(default).unwrap_or_else(|| panic!("{name} is required and not set"))
        }
    };
    parse(value).into_iter().map(fill).collect()
}

/// Every reference of the file.
fn references() -> Vec<Reference> {
    // Comments show none.
    text().lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(parse).filter_map(Result::err).collect()
}

/// The variables that `scripts/compose-env` writes.
pub(crate) fn written_env(folder: &Path) -> BTreeMap<String, String> {
    let file = folder.join("env");
    let output = Command::new(Path::new(ROOT).join("scripts/compose-env")).arg(&file).output().expect("run the script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(file).expect("read what it wrote");
    let pairs = text.lines().map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line}")));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// `90s`, `2m`.
pub(crate) fn seconds(duration: &str) -> u64 {
    let (number, unit) = duration.split_at(duration.len() - 1);
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("{duration}"));
    number * if unit == "m" { 60 } else { 1 }
}

/// Runs the check of the specification on a file.
fn check_against_the_specification(file: &Path) -> (bool, String) {
    let setup = fs::read_to_string(Path::new(ROOT).join("scripts/setup")).expect("read scripts/setup");
    let version = setup.lines().find_map(|line| line.strip_prefix("check_jsonschema_version=")).expect("its version");
    let program = home().join(format!("check-jsonschema-{version}/bin/check-jsonschema"));
    let output = Command::new(&program)
        .args(["--builtin-schema", "vendor.compose-spec"])
        .arg(file)
        .output()
        .unwrap_or_else(|error| panic!("run {}: {error} (scripts/setup tests installs it)", program.display()));
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_file_keeps_to_the_compose_specification() {
    let (valid, said) = check_against_the_specification(&Path::new(ROOT).join("docker-compose.yml"));
    assert!(valid, "{said}");
    // So does the service that docs/compose.md adds beside it.
    let page = fs::read_to_string(Path::new(ROOT).join("docs/compose.md")).expect("read docs/compose.md");
    let sample = page.split("```yaml\n").nth(1).and_then(|it| it.split("```").next()).expect("a sample");
    let folder = tempfile::tempdir().expect("a folder");
    let added = folder.path().join("docker-compose.override.yml");
    fs::write(&added, sample).expect("write");
    let (valid, said) = check_against_the_specification(&added);
    assert!(valid, "{said}");
    // The check is one.
    let wrong = folder.path().join("docker-compose.yml");
    fs::write(&wrong, text().replacen("healthcheck:", "healthchek:", 1)).expect("write");
    let (valid, said) = check_against_the_specification(&wrong);
    assert!(!valid && said.contains("healthchek"), "{said}");
}

#[test]
fn no_port_is_open_beyond_loopback() {
    let compose = compose();
    let ports: Vec<&String> = compose.services.values().flat_map(|service| &service.ports).collect();
    assert!(ports.len() >= 5, "{ports:?}");
    for port in ports {
        assert!(port.starts_with("127.0.0.1:"), "{port}");
        assert_eq!(filled(port, &BTreeMap::new()).split(':').count(), 3, "{port}");
    }
    assert!(!text().contains("network_mode"), "a service on the host's network publishes all it listens on");
}

#[test]
fn no_password_is_written_down_and_each_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = written_env(folder.path());
    let mode = fs::metadata(folder.path().join("env")).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read the passwords");
    assert_eq!(written_env(folder.path()), written, "what is set stays");
    let distinct: BTreeSet<&String> = written.values().collect();
    assert_eq!(distinct.len(), written.len(), "two passwords are the same");

    let references = references();
    let (required, optional): (Vec<_>, Vec<_>) = references.iter().partition(|it| it.default.is_none());
    let required: BTreeSet<&String> = required.iter().map(|reference| &reference.name).collect();
    assert_eq!(required, written.keys().collect(), "scripts/compose-env writes what the file requires");
    let is_secret = |name: &str| ["PASSWORD", "SECRET", "ACCESS_KEY"].iter().any(|word| name.contains(word));
    for reference in optional {
        assert!(!is_secret(&reference.name), "{} has a default", reference.name);
    }
    for (name, service) in &compose().services {
        for (variable, value) in &service.environment {
            let holds_secret = is_secret(variable) || value.contains('@') && value.contains("://");
            assert!(!holds_secret || value.contains(":?"), "{name}: {variable} is written down");
        }
    }
    // What is written is kept out of history and image.
    let ignored = Command::new("git").args(["-C", ROOT, "check-ignore", "--quiet", ".env"]).status();
    assert!(ignored.expect("run git").success(), ".env is not ignored by git");
}

#[test]
fn every_role_has_a_service_with_settings_that_freshet_takes() {
    let compose = compose();
    let command = |service: &Service| service.command.join(" ");
    let found: BTreeMap<&str, String> =
        compose.roles().iter().map(|(name, service)| (*name, command(service))).collect();
    let expected = [("ingest", "ingest"), ("metrics", "metrics"), ("process", "process all")];
    assert_eq!(found, expected.map(|(name, command)| (name, command.to_owned())).into(), "a service a role");

    let folder = tempfile::tempdir().expect("a folder");
    let variables = written_env(folder.path());
    let check = |service: &Service, more: &[(&str, &str)]| {
        let mut check = Command::new(FRESHET);
        check.arg("check-config").env_clear().current_dir(folder.path()).envs(more.iter().copied());
        check.envs(service.environment.iter().map(|(name, value)| (name, filled(value, &variables))));
        // What is mounted there.
        check.env("FRESHET_PIPELINE", format!("{ROOT}/pipelines/climate_health"));
        let output = check.output().expect("run freshet");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (name, service) in compose.services.iter().filter(|(_, service)| service.build.is_some()) {
        let (valid, said) = check(service, &[]);
        assert!(valid, "{name}: {said}");
        assert!(!check(service, &[("FRESHET__KAFKA__BROKER", "x")]).0, "an unknown setting passes");
    }
}

#[test]
fn services_start_in_order() {
    let compose = compose();
    for (name, service) in &compose.services {
        for (other, dependency) in &service.depends_on {
            let other = compose.services.get(other).unwrap_or_else(|| panic!("{name} waits for {other}, which is not"));
            match dependency.condition.as_str() {
                "service_healthy" => assert!(other.healthcheck.is_some(), "{name} waits for what has no health check"),
                "service_completed_successfully" => assert_eq!(other.restart, "no", "{name} waits for what never ends"),
                condition => panic!("{name}: {condition} says nothing about being of use"),
            }
        }
    }
    let waits_for = |service: &Service| service.depends_on.keys().cloned().collect::<Vec<_>>();
    assert_eq!(waits_for(&compose.services["setup"]), ["kafka", "postgres", "s3"]);
    for (name, role) in compose.roles() {
        assert_eq!(waits_for(role), ["setup"], "{name}");
    }
}

#[test]
fn every_service_is_confined_and_checked() {
    let compose = compose();
    for (name, service) in &compose.services {
        assert_eq!(service.cap_drop, ["ALL"], "{name}");
        assert!(service.security_opt.iter().any(|it| it == "no-new-privileges:true"), "{name}");
        assert!(!service.logging["options"]["max-size"].is_null(), "{name}: its log is not bounded");
        let ends = service.restart == "no";
        assert!(ends || service.healthcheck.is_some(), "{name} has no health check");
        assert!(ends || !service.deploy["resources"]["limits"]["memory"].is_null(), "{name} may take all memory");
        let (_, tag) = service.image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: an image without a tag"));
        let pinned = tag.contains('.') && tag != "latest";
        assert!(pinned || service.build.is_some(), "{name}: {} is not pinned", service.image);
        assert_eq!(service.build.is_some(), service.read_only, "{name}: freshet writes nothing to its image");
    }
    for (name, role) in compose.roles() {
        let grace = seconds(role.stop_grace_period.as_ref().expect("a grace period"));
        // The bound of draining, and of threads that block.
        assert!(grace > 30 + 5, "{name} is killed before it has drained");
    }
}

#[test]
fn networks_volumes_and_mounted_files_are_there() {
    let compose = compose();
    for (name, service) in &compose.services {
        for network in &service.networks {
            assert!(compose.networks.contains_key(network), "{name}: {network}");
        }
        for volume in &service.volumes {
            let volume = filled(volume, &BTreeMap::new());
            let source = volume.split(':').next().expect("a source");
            let there = match source.strip_prefix("./") {
                Some(path) => Path::new(ROOT).join(path).exists(),
                None => compose.volumes.contains_key(source),
            };
            assert!(there, "{name}: {volume}");
            assert!(!source.starts_with('/'), "{name}: {volume} is a place on the host");
        }
    }
}

#[test]
fn the_domains_and_boards_are_those_of_the_folder_that_is_chosen() {
    let compose = compose();
    let chosen = BTreeMap::from([("FRESHET_PIPELINE".to_owned(), "/srv/mine".to_owned())]);
    let mounted = |service: &Service| service.volumes.iter().map(|it| filled(it, &chosen)).collect::<Vec<_>>();
    for (name, service) in compose.services.iter().filter(|(_, service)| service.build.is_some()) {
        assert_eq!(service.environment["FRESHET_PIPELINE"], "/pipeline", "{name}");
        assert!(mounted(service).contains(&"/srv/mine:/pipeline:ro".to_owned()), "{name}: {:?}", mounted(service));
    }
    let boards = mounted(&compose.services["grafana"]);
    assert!(boards.contains(&"/srv/mine/boards:/var/lib/grafana/boards:ro".to_owned()), "{boards:?}");
}

#[test]
fn grafana_is_given_all_that_its_data_sources_ask_for() {
    let sources = Path::new(ROOT).join("grafana/provisioning/datasources/freshet.yml");
    let sources = fs::read_to_string(sources).expect("read the data sources");
    let asked = sources.lines().filter_map(|line| Some(line.split_once(": $")?.1)).collect::<BTreeSet<_>>();
    let grafana = &compose().services["grafana"].environment;
    let given = grafana.keys().map(String::as_str).filter(|name| name.starts_with("FRESHET_")).collect();
    assert_eq!(asked, given);
}

#[test]
fn the_local_stack_and_the_compose_file_run_the_same_kafka_and_seaweedfs() {
    let compose = compose();
    let programs = PathBuf::from(ROOT).join("src/local/components.rs");
    let programs = fs::read_to_string(programs).expect("read components.rs");
    for (service, version) in [("kafka", "KAFKA_VERSION"), ("s3", "SEAWEEDFS_VERSION")] {
        let line = programs.lines().find(|line| line.contains(&format!("const {version}:"))).expect(version);
        let version = line.split('"').nth(1).expect("a version");
        assert!(compose.services[service].image.ends_with(&format!(":{version}")), "{service} is not {version}");
    }
}
