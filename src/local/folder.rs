//! The data folder of a local stack: one owner at a time, and all that must stay the same from run to run.
//!
//! ```text
//! DATA/lock          held (flock) by the process that runs the stack; holds its id
//! DATA/stack.json    ids, keys, ports (mode 0600)
//! DATA/env           export lines for other clients, there while the stack is ready (mode 0600)
//! DATA/run/*.pid     the children, see `child`
//! DATA/logs/*.log    what they say
//! DATA/{kafka,postgres,s3}/
//! DATA/cache/        data files of the outputs, kept to be put together again
//! ```
//!
//! A lock is the kernel's and ends with its process, so that a `kill -9` leaves none behind.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Changes whenever an older freshet could not run on the folder, or this one not on an older folder.
const LAYOUT: u64 = 1;
/// What may lie in a folder that no stack has been made in yet, and what may lie in each: Kafka's further settings, and
/// what an interrupted start leaves. Other programs have a `kafka` or `postgres` too, with data in it.
const OURS: [(&str, &[&str]); 7] = [
    ("lock", &[]),
    ("stack.new", &[]),
    ("logs", &[]),
    ("run", &[]),
    ("kafka", &["more.properties"]),
    ("postgres", &[]),
    ("s3", &[]),
];
/// Below Linux's range for outgoing connections (32768 and up), so that none of them takes a port of ours.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// A predecessor that is just ending gets this long to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A data folder that this process holds.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    pub(super) state: State,
    _lock: File,
}

/// What stays the same from run to run.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    layout: u64,
    pub(super) stack_id: String,
    pub(super) kafka_cluster_id: String,
    pub(super) kafka_directory_id: String,
    pub(super) postgres_password: String,
    /// Where the Postgres data is, if not in the folder itself.
    pub(super) postgres_dir: Option<PathBuf>,
    pub(super) s3_access_key_id: String,
    pub(super) s3_secret_access_key: String,
    /// Kept from run to run while they are free.
    pub(super) ports: BTreeMap<String, u16>,
}

impl Folder {
    /// Takes the folder, making it where there is none.
    pub(super) fn open(root: &Path) -> anyhow::Result<Folder> {
        let root = std::path::absolute(root)?;
        let shown = root.display();
        if root.exists() {
            check_is_ours(&root)?;
        } else {
            make_dir(&root, 0o755)?;
        }
        let root = root.canonicalize().with_context(|| format!("open data folder {shown}"))?;
        let lock = take_lock(&root)?;
        let state = match fs::read_to_string(root.join("stack.json")) {
            Ok(text) => State::parse(&text, &root)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::new(),
            Err(error) => return Err(error).with_context(|| format!("read {shown}/stack.json")),
        };
        for dir in ["run", "logs"] {
            make_dir(&root.join(dir), 0o700)?;
        }
        let folder = Folder { root, state, _lock: lock };
        folder.save()?;
        Ok(folder)
    }

    pub(super) fn save(&self) -> anyhow::Result<()> {
        write_private(&self.root.join("stack.json"), &(serde_json::to_string_pretty(&self.state)? + "\n"))
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    pub(super) fn record(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.pid"))
    }

    /// Ports for the names: those of the last run where they are free, others where not. With an offset, each port is
    /// one of a pair: that many above it another one is free as well.
    pub(super) fn claim_ports(&mut self, names: &[&'static str], pair_offset: Option<u16>) -> anyhow::Result<()> {
        for name in names {
            let is_free = |port: u16| is_free(port) && pair_offset.is_none_or(|offset| is_free(port + offset));
            if !self.state.ports.get(*name).is_some_and(|&port| is_free(port)) {
                let port = self.choose_port(pair_offset.unwrap_or(0), is_free)?;
                self.state.ports.insert((*name).to_owned(), port);
            }
        }
        self.save()
    }

    fn choose_port(&self, pair_offset: u16, is_free: impl Fn(u16) -> bool) -> anyhow::Result<u16> {
        let (start, end) = (PORTS.start - pair_offset, PORTS.end - pair_offset);
        // 1,000 misses in a row mean a machine with hardly a free port.
        for _ in 0..1000 {
            let port = start + (Uuid::new_v4().as_u128() as u32 % u32::from(end - start)) as u16;
            if !self.state.ports.values().any(|&other| other == port || other == port + pair_offset) && is_free(port) {
                return Ok(port);
            }
        }
        bail!("no free port between {start} and {end} on 127.0.0.1: stop the programs that use them")
    }
}

impl State {
    fn new() -> State {
        State {
            layout: LAYOUT,
            stack_id: random(),
            kafka_cluster_id: kafka_uuid(),
            kafka_directory_id: kafka_uuid(),
            postgres_password: random(),
            postgres_dir: None,
            // AWS's form: 20 capitals and digits, then 40 characters.
            s3_access_key_id: format!("AKIA{}", &random().to_uppercase()[..16]),
            s3_secret_access_key: (random() + &random())[..40].to_owned(),
            ports: BTreeMap::new(),
        }
    }

    fn parse(text: &str, root: &Path) -> anyhow::Result<State> {
        let remedy = "use another folder with --data, or delete this one";
        let shown = root.display();
        let broken = |error| anyhow::anyhow!("data folder {shown}: stack.json cannot be read ({error}): {remedy}");
        let value: serde_json::Value = serde_json::from_str(text).map_err(broken)?;
        let layout = value.get("layout").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if layout != LAYOUT {
            bail!(
                "data folder {shown} has layout {layout}, made by another version of freshet; this version reads \
                 {LAYOUT}: {remedy}"
            );
        }
        serde_json::from_value(value).map_err(broken)
    }

    pub(super) fn port(&self, name: &str) -> u16 {
        self.ports.get(name).copied().unwrap_or_default()
    }
}

/// The process that runs a stack on this folder now, if any.
pub(super) fn holder(root: &Path) -> Option<u32> {
    let lock = File::open(root.join("lock")).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(read_pid(root).unwrap_or(0)),
        _ => None,
    }
}

/// Writes a file that only we can read: whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Creates a folder, with its parents, independent of the umask; an existing one keeps its mode.
pub(super) fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("make folder {}", path.display()))
}

/// The text of `DATA/env`, which any POSIX shell can source.
pub(super) fn env_text(values: &[(&str, String)]) -> String {
    let line = |(name, value): &(&str, String)| format!("export {name}='{}'\n", value.replace('\'', r"'\''"));
    values.iter().map(line).collect()
}

/// The values of a text that [`env_text`] made.
pub(super) fn parse_env(text: &str) -> Vec<(String, String)> {
    let parse = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        let value = value.strip_prefix('\'')?.strip_suffix('\'')?.replace(r"'\''", "'");
        Some((name.to_owned(), value))
    };
    text.lines().filter_map(parse).collect()
}

fn check_is_ours(root: &Path) -> anyhow::Result<()> {
    let shown = root.display();
    let entries = fs::read_dir(root).with_context(|| format!("open data folder {shown}"))?;
    if root.join("stack.json").exists() {
        return Ok(());
    }
    if let Some(other) = other_file(entries).with_context(|| format!("open data folder {shown}"))? {
        bail!(
            "{shown} contains other files ({}) and is not a freshet data folder: choose a new folder with --data",
            other.display()
        );
    }
    Ok(())
}

/// The first thing that is not one of [`OURS`], as a path in the folder.
fn other_file(entries: fs::ReadDir) -> std::io::Result<Option<PathBuf>> {
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some((_, allowed)) = OURS.iter().find(|(ours, _)| name == *ours) else {
            return Ok(Some(name.into()));
        };
        if !entry.path().is_dir() {
            continue;
        }
        for within in fs::read_dir(entry.path())? {
            let within = within?.file_name();
            if !allowed.iter().any(|it| within == *it) {
                return Ok(Some(Path::new(&name).join(within)));
            }
        }
    }
    Ok(None)
}

fn take_lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("lock");
    let shown = root.display();
    let open = || OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let mut lock = open().with_context(|| format!("open {}", path.display()))?;
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(root).map(|pid| pid.to_string()).unwrap_or_else(|| "of unknown id".into());
                bail!(
                    "data folder {shown} is in use by process {pid}: stop that process, or choose another folder with \
                     --data"
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

fn read_pid(root: &Path) -> Option<u32> {
    fs::read_to_string(root.join("lock")).ok()?.trim().parse().ok()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// 122 random bits, as 32 hexadecimal digits.
fn random() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A random id as Kafka writes it: 16 bytes in URL-safe base64, not beginning with a dash.
fn kafka_uuid() -> String {
    loop {
        let id = URL_SAFE_NO_PAD.encode(Uuid::new_v4().as_bytes());
        if !id.starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let temp = tempfile::tempdir().expect("tempdir");
        let root = temp.path().join("data");
        assert_eq!(holder(&root), None);
        let first = Folder::open(&root).expect("first");
        assert_eq!(holder(&root), Some(std::process::id()));
        let error = Folder::open(&root).expect_err("second").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())) && !error.contains('\n'), "{error}");
        drop(first);
        assert_eq!(holder(&root), None);
        Folder::open(&root).expect("the next owner");
    }

    #[test]
    fn keys_and_ports_stay_the_same_and_a_taken_port_is_replaced() {
        let temp = tempfile::tempdir().expect("tempdir");
        let root = temp.path().join("data");
        let mut folder = Folder::open(&root).expect("open");
        folder.claim_ports(&["a", "b"], None).expect("ports");
        let state = folder.state.clone();
        drop(folder);

        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, state.port("a"))).expect("take the port");
        let mut folder = Folder::open(&root).expect("open again");
        assert_eq!(folder.state, state);
        folder.claim_ports(&["a", "b"], None).expect("ports");
        assert_ne!(folder.state.port("a"), state.port("a"));
        assert_eq!(folder.state.port("b"), state.port("b"));
        let mode = fs::metadata(root.join("stack.json")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_folder_of_another_layout_or_with_other_files_is_refused_in_one_line() {
        let temp = tempfile::tempdir().expect("tempdir");
        fs::write(temp.path().join("stack.json"), r#"{"layout": 99}"#).expect("write");
        let error = Folder::open(temp.path()).expect_err("other layout").to_string();
        assert!(error.contains("layout 99") && error.contains("--data") && !error.contains('\n'), "{error}");

        fs::write(temp.path().join("stack.json"), "{").expect("write");
        let error = Folder::open(temp.path()).expect_err("broken").to_string();
        assert!(error.contains("cannot be read"), "{error}");

        let temp = tempfile::tempdir().expect("tempdir");
        fs::write(temp.path().join("thesis.txt"), "").expect("write");
        let error = Folder::open(temp.path()).expect_err("not ours").to_string();
        assert!(error.contains("thesis.txt"), "{error}");

        for other in ["kafka/wal", "postgres/data", "s3/bucket", "run/app.pid", "logs/app.log", "env"] {
            let temp = tempfile::tempdir().expect("tempdir");
            let path = temp.path().join(other);
            fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
            fs::write(&path, "theirs").expect("write");
            let error = Folder::open(temp.path()).expect_err("not ours").to_string();
            assert!(error.contains(&format!("({other})")) && !error.contains('\n'), "{error}");
            let text = fs::read_to_string(&path).expect("it is left alone");
            assert!(text == "theirs" && !temp.path().join("stack.json").exists(), "{other}");
        }
    }

    #[test]
    fn a_folder_with_what_an_interrupted_start_leaves_and_settings_of_kafka_is_taken() {
        let temp = tempfile::tempdir().expect("tempdir");
        for folder in ["logs", "run", "kafka", "postgres", "s3"] {
            fs::create_dir(temp.path().join(folder)).expect("mkdir");
        }
        for file in ["lock", "stack.new", "kafka/more.properties"] {
            fs::write(temp.path().join(file), "").expect("write");
        }
        Folder::open(temp.path()).expect("ours");
    }

    #[test]
    fn env_lines_survive_a_shell_and_are_read_back() {
        let values = [("A", "plain".to_owned()), ("B", "it's $HOME `x` \"y\" \\".to_owned()), ("C", String::new())];
        let text = env_text(&values);
        let owned: Vec<_> = values.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        assert_eq!(parse_env(&text), owned);
        let script = format!("{text}printf '%s|%s|%s' \"$A\" \"$B\" \"$C\"");
        let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().expect("sh");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("plain|{}|", values[1].1));
    }

    #[test]
    fn kafka_ids_have_kafkas_form() {
        let id = kafka_uuid();
        assert!(id.len() == 22 && !id.starts_with('-'), "{id}");
        assert!(id.chars().all(|it| it.is_ascii_alphanumeric() || matches!(it, '-' | '_')), "{id}");
    }
}
