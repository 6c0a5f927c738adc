//! Child processes that cannot outlive freshet, not even after `kill -9`.
//!
//! How the promise is kept:
//! - The kernel signals the child when its parent ends (`PR_SET_PDEATHSIG`). That signal is tied to the *thread* that
//!   spawned, and is cleared by a change of user: so one thread that lives as long as the process spawns every child,
//!   and the request is made after privileges were dropped, just before `exec`. A parent that died in between shows as
//!   a changed parent id, and the child ends itself.
//! - Each child is recorded in `DATA/run/NAME.pid` by (boot, pid, start time), which no other process ever shares.
//!   The next start stops a child that is still there all the same, and exactly that one.
//! - A child has its own process group, so that a Ctrl-C in the terminal reaches freshet alone, which then stops its
//!   children in its own order.
//!
//! The first two are Linux's. Elsewhere a `kill -9` of freshet leaves its children running.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long between two looks at whether something has happened.
const LOOK: Duration = Duration::from_millis(20);
/// A log larger than this is put aside when its child starts.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// An error shows at most this many of the log's last lines.
const LOG_LINES_SHOWN: usize = 15;

/// The user that a child runs as, where it is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What to send, and how long to wait for the end before the next step; after the last one comes SIGKILL.
pub(super) type StopSteps = &'static [(Signal, Duration)];

pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// The child's whole environment, besides PATH.
    pub(super) env: Vec<(&'static str, OsString)>,
    pub(super) user: Option<User>,
    pub(super) working_dir: PathBuf,
    pub(super) log: PathBuf,
    pub(super) record: PathBuf,
    /// The signal that the kernel sends when freshet dies.
    pub(super) on_our_death: Signal,
    pub(super) stop: StopSteps,
}

/// A running child. Dropping it stops it, at once.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) name: &'static str,
    pub(super) log: PathBuf,
    process: std::process::Child,
    record: PathBuf,
    log_start: u64,
    on_our_death: Signal,
    stop: StopSteps,
    ended: bool,
}

/// A child that ended without being asked to.
#[derive(Debug, Clone)]
pub struct Exited {
    /// `kafka`, `postgres` or `s3`.
    pub name: &'static str,
    /// The id that its process had.
    pub pid: u32,
    pub status: ExitStatus,
    pub log: PathBuf,
}

impl fmt::Display for Exited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} died ({}), see {}", self.name, self.status, self.log.display())
    }
}

/// A child that did not come up.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub(super) name: &'static str,
    pid: u32,
    reason: Reason,
    log: PathBuf,
    pub(super) log_end: String,
}

#[derive(Debug, Clone, Copy)]
enum Reason {
    Ended(ExitStatus),
    NoAnswer(Duration),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Ended(status) => write!(f, "it ended ({status})"),
            Reason::NoAnswer(limit) => write!(f, "no answer within {} s", limit.as_secs()),
        }
    }
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {}: {}, see {}", self.name, self.reason, self.log.display())?;
        if !self.log_end.is_empty() {
            write!(f, "; its last lines:\n{}", self.log_end)?;
        }
        Ok(())
    }
}

impl std::error::Error for NotStarted {}

impl NotStarted {
    /// Whether another program took a port between our choice and the child's bind.
    pub(super) fn port_was_taken(&self) -> bool {
        ["Address already in use", "BindException", "is not available on", "could not bind"]
            .iter()
            .any(|sign| self.log_end.contains(sign))
    }

    /// How it ended, if it did.
    pub(super) fn exited(&self) -> Option<Exited> {
        match self.reason {
            Reason::Ended(status) => Some(Exited { name: self.name, pid: self.pid, status, log: self.log.clone() }),
            Reason::NoAnswer(_) => None,
        }
    }
}

impl Child {
    /// Starts the child and records it.
    pub(super) fn start(spec: Spec) -> anyhow::Result<Child> {
        let (log, log_start) = open_log(&spec.log)?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        prepare(&mut command, spec.user, &spec.env, &spec.working_dir, spec.on_our_death);
        let process =
            spawn_from_lifelong_thread(command).with_context(|| format!("start {}", spec.program.display()))?;
        let child = Child {
            name: spec.name,
            log: spec.log,
            process,
            record: spec.record,
            log_start,
            on_our_death: spec.on_our_death,
            stop: spec.stop,
            ended: false,
        };
        if let Some(identity) = Identity::of(child.process.id() as i32) {
            super::folder::write_private(&child.record, &identity.to_string())?;
        }
        Ok(child)
    }

    /// Looks, without waiting, whether the child has ended.
    pub(super) fn exited(&mut self) -> Option<Exited> {
        let status = self.process.try_wait().ok().flatten()?;
        self.ended = true;
        Some(Exited { name: self.name, pid: self.process.id(), status, log: self.log.clone() })
    }

    /// Waits until `probe` says yes. Fails with the log's last lines when the child ends first or the limit is over.
    pub(super) async fn ready<F>(&mut self, limit: Duration, probe: impl Fn() -> F) -> anyhow::Result<()>
    where
        F: Future<Output = bool>,
    {
        let start = Instant::now();
        loop {
            if let Some(exited) = self.exited() {
                return Err(self.not_started(Reason::Ended(exited.status)).into());
            }
            // A probe that hangs must not hide the end of the child or of the limit.
            if tokio::time::timeout(Duration::from_secs(2), probe()).await.unwrap_or(false) {
                return Ok(());
            }
            if start.elapsed() > limit {
                return Err(self.not_started(Reason::NoAnswer(limit)).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops the child step by step, at last with SIGKILL, and waits for its end.
    pub(super) async fn stop(mut self) {
        for &(signal, wait) in self.stop {
            if self.exited().is_some() {
                break;
            }
            send(&self.process, signal);
            let start = Instant::now();
            while self.exited().is_none() && start.elapsed() < wait {
                tokio::time::sleep(LOOK).await;
            }
        }
        if self.exited().is_none() {
            tracing::warn!(child = self.name, "it did not stop when asked, so it is killed");
        }
        // What is left (SIGKILL, the record) is done by drop.
    }

    /// What the child wrote to its log since it was started: the last lines.
    pub(super) fn log_end(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let end = file.metadata().map(|m| m.len()).unwrap_or(0);
            let from = self.log_start.max(end.saturating_sub(16 * 1024));
            if file.seek(SeekFrom::Start(from)).is_ok() {
                file.read_to_end(&mut text).ok();
            }
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    fn not_started(&self, reason: Reason) -> NotStarted {
        NotStarted { name: self.name, pid: self.process.id(), reason, log: self.log.clone(), log_end: self.log_end() }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exited().is_none() {
            send(&self.process, self.on_our_death);
            let start = Instant::now();
            while self.exited().is_none() && start.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(LOOK);
            }
            if !self.ended {
                self.process.kill().ok();
                self.process.wait().ok();
            }
        }
        fs::remove_file(&self.record).ok();
    }
}

/// Runs a program to its end (seconds at most) under the same promise; its output is part of the error.
pub(super) fn run(
    program: &Path,
    args: &[&std::ffi::OsStr],
    user: Option<User>,
    env: &[(&'static str, OsString)],
) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    prepare(&mut command, user, env, Path::new("/"), Signal::KILL);
    let shown = program.display();
    let output = spawn_from_lifelong_thread(command)
        .and_then(|process| process.wait_with_output())
        .with_context(|| format!("run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether `user` can write in `folder`, tried by a process of that user (so that access lists count too).
pub(super) fn can_write(user: User, folder: &Path) -> bool {
    let args = ["-c".as_ref(), "test -w \"$0\" && test -x \"$0\"".as_ref(), folder.as_os_str()];
    run(Path::new("/bin/sh"), &args, Some(user), &[]).is_ok()
}

/// Stops the process that `record` names, if it is still that very process. Returns its id if there was one.
pub(super) async fn stop_leftover(record: &Path, steps: StopSteps) -> anyhow::Result<Option<i32>> {
    let Some(identity) = fs::read_to_string(record).ok().and_then(|text| Identity::parse(&text)) else {
        fs::remove_file(record).ok();
        return Ok(None);
    };
    // The handle is taken before the look at the identity: from there on it can mean no other process.
    let handle = Handle::of(identity.pid);
    if !identity.is_alive() {
        fs::remove_file(record).ok();
        return Ok(None);
    }
    for &(signal, wait) in steps.iter().chain(&[(Signal::KILL, Duration::from_secs(10))]) {
        if let Some(handle) = &handle {
            handle.send(signal);
        }
        let start = Instant::now();
        while start.elapsed() < wait {
            if !identity.is_alive() {
                fs::remove_file(record).ok();
                return Ok(Some(identity.pid));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    bail!("process {} is left over from an earlier run and does not exit: stop it, then start again", identity.pid)
}

/// What tells a process from every other that ever had its id.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    boot: String,
    pid: i32,
    /// In clock ticks since the boot.
    started: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Identity> {
        let (_, started) = stat(pid)?;
        Some(Identity { boot: boot_id(), pid, started })
    }

    fn parse(text: &str) -> Option<Identity> {
        let mut words = text.split_whitespace();
        let (boot, pid, started) = (words.next()?, words.next()?, words.next()?);
        Some(Identity { boot: boot.to_owned(), pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    /// A zombie counts as gone: it holds no file, no port and no lock.
    fn is_alive(&self) -> bool {
        let ended = |state| matches!(state, 'Z' | 'X');
        self.boot == boot_id()
            && stat(self.pid).is_some_and(|(state, started)| started == self.started && !ended(state))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.boot, self.pid, self.started)
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// State and start time from `/proc/PID/stat` (proc_pid_stat(5)): fields 3 and 22, after the name in brackets.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn open_log(path: &Path) -> anyhow::Result<(File, u64)> {
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.1")).ok();
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let start = log.metadata()?.len();
    Ok((log, start))
}

fn prepare(
    command: &mut Command,
    user: Option<User>,
    env: &[(&'static str, OsString)],
    working_dir: &Path,
    on_our_death: Signal,
) {
    // Nothing of ours leaks in: neither AWS_* into the S3 server nor PG* into Postgres.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command.current_dir(working_dir).process_group(0);
    if let Some(user) = user {
        // As root, the standard library also gives up the supplementary groups.
        command.uid(user.uid).gid(user.gid);
    }
    die_with_us(command, on_our_death);
}

/// Has the kernel signal the child when its parent ends.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn die_with_us(command: &mut Command, signal: Signal) {
    let parent = Pid::from_raw(std::process::id() as i32);
    let request = move || {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        if rustix::process::getppid() != parent {
            // The parent died before the request was made: nobody would ever send the signal.
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. Both are plain system calls, and nothing
    // here allocates or locks. The standard library runs this after it has changed user and group, so that the request
    // holds.
    unsafe { command.pre_exec(request) };
}

/// No other system has such a signal.
#[cfg(not(target_os = "linux"))]
fn die_with_us(_: &mut Command, _: Signal) {}

type Job = (Command, mpsc::Sender<io::Result<std::process::Child>>);

/// Spawns from a thread that ends only with the process: the death signal fires when the spawning thread ends.
fn spawn_from_lifelong_thread(command: Command) -> io::Result<std::process::Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || {
            for (mut command, answer) in queue {
                answer.send(command.spawn()).ok();
            }
        };
        // Without the thread its queue is closed, and every send below says so.
        std::thread::Builder::new().name("spawner".into()).spawn(work).ok();
        jobs
    });
    let gone = |_| io::Error::other("the thread that starts child processes is gone");
    let (answer, result) = mpsc::channel();
    spawner.send((command, answer)).map_err(|_| gone(()))?;
    result.recv().map_err(|_| gone(()))?
}

/// Signals a child that has not been waited for: its id cannot have been given to another process. One that is gone
/// is an error that does not matter.
fn send(process: &std::process::Child, signal: Signal) {
    if let Some(pid) = Pid::from_raw(process.id() as i32) {
        kill_process(pid, signal).ok();
    }
}

/// A process that is no child of ours.
struct Handle {
    #[cfg(target_os = "linux")]
    pidfd: Option<std::os::fd::OwnedFd>,
    pid: Pid,
}

impl Handle {
    fn of(pid: i32) -> Option<Handle> {
        let pid = Pid::from_raw(pid)?;
        Some(Handle {
            #[cfg(target_os = "linux")]
            pidfd: rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok(),
            pid,
        })
    }

    /// One that is gone is an error that does not matter.
    fn send(&self, signal: Signal) {
        #[cfg(target_os = "linux")]
        if let Some(pidfd) = &self.pidfd {
            rustix::process::pidfd_send_signal(pidfd, signal).ok();
            return;
        }
        kill_process(self.pid, signal).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM_THEN_KILL: StopSteps = &[(Signal::TERM, Duration::from_millis(300))];

    fn shell(folder: &Path, script: &str) -> Spec {
        Spec {
            name: "shell",
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![],
            user: None,
            working_dir: "/".into(),
            log: folder.join("shell.log"),
            record: folder.join("shell.pid"),
            on_our_death: Signal::KILL,
            stop: TERM_THEN_KILL,
        }
    }

    #[tokio::test]
    async fn a_child_that_ends_at_start_shows_its_last_lines() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::write(folder.path().join("shell.log"), "old line\n").expect("write");
        let mut child = Child::start(shell(folder.path(), "echo no luck; exit 3")).expect("start");
        let error = child.ready(Duration::from_secs(10), async || false).await.expect_err("it ended");
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no luck") && !text.contains("old line"), "{text}");
    }

    #[tokio::test]
    async fn a_child_deaf_to_sigterm_is_killed_and_its_record_removed() {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut child =
            Child::start(shell(folder.path(), "trap '' TERM; echo up; while :; do sleep 0.05; done")).expect("start");
        let log = child.log.clone();
        child
            .ready(Duration::from_secs(10), async || fs::read_to_string(&log).is_ok_and(|t| t.contains("up")))
            .await
            .expect("up");
        let identity = Identity::of(child.process.id() as i32).expect("alive");
        child.stop().await;
        assert!(!identity.is_alive());
        assert!(!folder.path().join("shell.pid").exists());
    }

    #[tokio::test]
    async fn a_leftover_is_stopped_and_a_stranger_with_its_id_is_not() {
        let folder = tempfile::tempdir().expect("tempdir");
        let child = Child::start(shell(folder.path(), "exec sleep 60")).expect("start");
        let pid = child.process.id() as i32;
        let identity = Identity::of(pid).expect("alive");
        let record = folder.path().join("copy.pid");

        // The same id with another start time is another process.
        let stranger = Identity { started: identity.started + 1, boot: identity.boot.clone(), pid };
        fs::write(&record, stranger.to_string()).expect("write");
        assert_eq!(stop_leftover(&record, TERM_THEN_KILL).await.expect("nothing to stop"), None);
        assert!(identity.is_alive() && !record.exists());

        fs::write(&record, identity.to_string()).expect("write");
        assert_eq!(stop_leftover(&record, TERM_THEN_KILL).await.expect("stopped"), Some(pid));
        assert!(!identity.is_alive() && !record.exists());
    }

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let identity = Identity::of(std::process::id() as i32).expect("alive");
        assert!(identity.is_alive());
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        assert_eq!(Identity::parse("nonsense"), None);
    }
}
