//! Programs that tests start with settings of their own, and what tests ask of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a program may take to be of use, or to end.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(90);

/// Where `scripts/setup` puts programs.
pub(crate) fn home() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("FRESHET_HOME").or_else(|| Some(cache()?.join("freshet"))).expect("HOME is set")
}

/// A program of the set-up, by the start of its folder's name.
fn installed(name: &str) -> PathBuf {
    let entries = fs::read_dir(home()).expect("the folder of the set-up").flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(name))).collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("{name} is not in {}: run scripts/setup", home().display()))
}

/// The `weed` that the local stack runs.
pub(crate) fn weed() -> PathBuf {
    installed("seaweedfs-4").join("weed")
}

/// The folder of Kafka's jars.
pub(crate) fn kafka_libraries() -> PathBuf {
    installed("kafka-4").join("libs")
}

/// Starts a Kafka of one node with these properties and options of Java; its data is in `folder`.
pub(crate) fn start_kafka(folder: &Path, cluster_id: &str, properties: &str, options: &[&str]) -> Part {
    let (home, data) = (folder.join("kafka"), folder.join("kafka/data"));
    fs::create_dir_all(&data).expect("make Kafka's folder");
    let meta = format!("version=1\ncluster.id={cluster_id}\nnode.id=1\n");
    fs::write(data.join("meta.properties"), meta).expect("format Kafka's folder");
    let properties = format!("{properties}log.dirs={}\n", data.display());
    fs::write(home.join("server.properties"), properties).expect("write Kafka's properties");
    let mut java = Command::new("java");
    java.args(options).args(["-XX:+UseSerialGC", "-cp"]).arg(kafka_libraries().join("*"));
    java.arg("kafka.Kafka").arg(home.join("server.properties"));
    Part::start("kafka", folder, java.env("LANG", "C.UTF-8").current_dir(home))
}

/// A port on which nobody listens now, below the range of outgoing connections; never the same twice.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().expect("not poisoned").insert(port) {
            return port;
        }
    }
}

/// A running program. Dropping it kills it, and so does the end of the thread that started it.
pub(crate) struct Part {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Part {
    /// Starts it with its output in a log. `command` says what, in which folder and with which variables.
    pub(crate) fn start(name: &str, folder: &Path, command: &Command) -> Part {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("make the log");
        // Whatever becomes of this process, its children end.
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        wrapped.env_clear().env("PATH", std::env::var_os("PATH").expect("PATH"));
        for (name, value) in command.get_envs() {
            wrapped.env(name, value.unwrap_or_default());
        }
        wrapped.current_dir(command.get_current_dir().unwrap_or(folder)).stdin(Stdio::null());
        wrapped.stdout(file.try_clone().expect("the log again")).stderr(file);
        let child = wrapped.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        Part { name: name.to_owned(), child, log }
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks until there is an answer, as long as it runs and for a bounded time.
    pub(crate) async fn until<T>(&mut self, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            let ended = self.child.try_wait().expect("look at the program");
            assert!(ended.is_none() && since.elapsed() < limit, "{}: {ended:?}\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The most memory it had, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("run kill");
        assert!(sent.success(), "{} is gone already:\n{}", self.name, self.log());
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("look at the program") {
                return status;
            }
            assert!(since.elapsed() < limit, "{} does not end within {limit:?}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
