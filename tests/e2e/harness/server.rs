//! A Postgres of one test's own, which can be stopped and started, on a disk that can be full, with a clock that can be
//! wrong.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::folder;

/// Recovery after an immediate stop takes a second or two.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const USER: &str = "freshet";

/// A running server, or one that is stopped. Dropping it ends it.
pub(crate) struct Server {
    place: PathBuf,
    programs: PathBuf,
    port: u16,
    child: Option<Child>,
    disk: Option<Disk>,
    variables: Vec<(String, String)>,
}

impl Server {
    /// Makes a server and starts it, with these variables in its environment.
    pub(crate) async fn start(name: &str, variables: &[(String, String)]) -> Server {
        let place = folder().join(name);
        fs::create_dir_all(&place).expect("make a folder");
        give_to_its_user(&place);
        Server::at(place, variables, None, &[]).await
    }

    /// Makes one and starts it, with its log of changes alone on the small disk.
    pub(crate) async fn start_with_log_on(disk: Disk, name: &str) -> Server {
        let place = folder().join(name);
        fs::create_dir_all(&place).expect("make a folder");
        give_to_its_user(&place);
        let log = format!("--waldir={}", disk.place.join("log").display());
        Server::at(place, &[], Some(disk), &[&log]).await
    }

    /// The same, with the database `freshet` alone on the small disk, and its log of changes elsewhere.
    pub(crate) async fn start_with_tables_on(disk: Disk, name: &str) -> Server {
        let place = folder().join(name);
        let tables = disk.place.join("tables");
        fs::create_dir_all(disk.seen(&tables)).expect("make a folder");
        give_to_its_user(&disk.seen(&tables));
        fs::create_dir_all(&place).expect("make a folder");
        give_to_its_user(&place);
        let server = Server::at(place, &[], Some(disk), &[]).await;
        server.execute(&format!("CREATE TABLESPACE small LOCATION '{}'", tables.display())).await;
        server.execute("CREATE DATABASE freshet TABLESPACE small").await;
        server
    }

    async fn at(place: PathBuf, variables: &[(String, String)], disk: Option<Disk>, of_initdb: &[&str]) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port();
        let (programs, variables) = (programs(), variables.to_vec());
        let mut server = Server { place, programs, port, child: None, disk, variables };
        let initdb = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--wal-segsize=1"];
        let mut command = server.command("initdb");
        command.args(initdb).args(of_initdb).args(["--username", USER, "--pgdata"]).arg(server.data());
        let made = command.stdout(Stdio::null()).status().expect("run initdb");
        assert!(made.success(), "make the data of Postgres");
        let lines = [
            "listen_addresses = '127.0.0.1'",
            "unix_socket_directories = ''",
            "timezone = 'UTC'",
            "log_timezone = 'UTC'",
            "max_connections = 60",
            "shared_buffers = 32MB",
            "min_wal_size = 4MB",
            "max_wal_size = 32MB",
        ];
        let lines = lines.map(|line| format!("{line}\n")).concat();
        let configuration = server.seen(&server.data().join("postgresql.conf"));
        let mut file = fs::OpenOptions::new().append(true).open(configuration).expect("open the configuration");
        file.write_all(format!("port = {port}\n{lines}").as_bytes()).expect("write the configuration");
        server.again().await;
        server
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// A path of the server's as this process sees it.
    fn seen(&self, path: &Path) -> PathBuf {
        self.disk.as_ref().map_or(path.to_owned(), |disk| disk.seen(path))
    }

    /// One of its programs, on its disk, as its user, ending when this thread ends.
    fn command(&self, program: &str) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(disk) = &self.disk {
            words.extend(disk.entered());
        }
        words.extend(["setpriv", "--pdeathsig", "QUIT"].map(str::to_owned));
        if let Some((user, group)) = other_user() {
            words.extend([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".into()]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(self.programs.join(program));
        command.env("LANG", "C").env("HOME", &self.place).current_dir("/").stdin(Stdio::null());
        command
    }

    /// Starts it over its data, and waits until it answers.
    pub(crate) async fn again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("open the log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).envs(self.variables.iter().cloned());
        command.stdout(log.try_clone().expect("share the log")).stderr(log);
        self.child = Some(command.spawn().expect("start Postgres"));
        let began = Instant::now();
        loop {
            match PgConnection::connect(&self.url("postgres")).await {
                Ok(connection) => return connection.close().await.expect("say goodbye"),
                Err(error) => assert!(began.elapsed() < STARTS_WITHIN, "{error}\n{}", self.log()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log_file(&self) -> PathBuf {
        folder().join(format!("postgres-{}.log", self.port))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The address of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    pub(crate) fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a disk of its own")
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.expect("connect");
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Whether it is there: it may have ended by itself.
    pub(crate) fn runs(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        let runs = child.try_wait().expect("look at Postgres").is_none();
        if !runs {
            self.child = None;
        }
        runs
    }

    /// The immediate stop of `pg_ctl stop -m immediate`: nothing is written any more, as if the power had failed.
    pub(crate) fn stop_at_once(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let sent = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
        assert!(sent.expect("run kill").success(), "send SIGQUIT");
        child.wait().expect("wait for Postgres");
        // Its port is free before another run of it asks for it.
        assert!(TcpStream::connect(("127.0.0.1", self.port)).is_err(), "it still answers");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_at_once();
    }
}

/// A small disk: a tmpfs that only the processes which enter it see, and that goes with its holder.
pub(crate) struct Disk {
    place: PathBuf,
    holder: Child,
}

/// Mounts it, says so, and holds it for as long as its input is open. Perl, because `mount` wants to be root by name.
const HOLD: &str = r#"
    my ($place, $size) = @ARGV;
    my @mount = ("tmpfs", $place, "tmpfs", 0, "size=$size,mode=0777");
    $| = 1;
    print syscall(165, @mount) == 0 ? "held\n" : "refused: $!\n";
    <STDIN>;
"#;

impl Disk {
    /// A disk of that size; `None`, with the reason printed, where this user may not mount one.
    pub(crate) fn new(name: &str, size: &str) -> Option<Disk> {
        let place = folder().join(name);
        fs::create_dir_all(&place).expect("make a folder");
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if other_user().is_none() {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command.args(["perl", "-e", HOLD]).arg(&place).arg(size);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut holder = command.spawn().expect("run unshare");
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut said).expect("hear of the disk");
        if said.trim() == "held" {
            let disk = Disk { place, holder };
            give_to_its_user(&disk.seen(&disk.place));
            return Some(disk);
        }
        holder.wait().ok();
        println!("skipped: no disk of its own can be mounted here ({})", said.trim());
        None
    }

    fn seen(&self, path: &Path) -> PathBuf {
        Path::new("/proc")
            .join(self.holder.id().to_string())
            .join("root")
            .join(path.strip_prefix("/").expect("absolute"))
    }

    fn entered(&self) -> Vec<String> {
        let user = if other_user().is_none() { &["--user", "--preserve-credentials"][..] } else { &[] };
        let target = self.holder.id().to_string();
        ["nsenter", "--target", &target, "--mount"].iter().chain(user).map(|it| (*it).to_owned()).collect()
    }

    fn ballast(&self) -> PathBuf {
        self.seen(&self.place).join("ballast")
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.ballast()).expect("make the ballast");
        for bytes in [1 << 20, 4_096, 1] {
            while file.write_all(&vec![7; bytes]).is_ok() {}
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).expect("remove the ballast");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// Postgres does not run as root: its user and group, where we are.
fn other_user() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    if !is_root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let found = ["postgres:", "nobody:"].iter().find_map(|name| users.lines().find(|line| line.starts_with(name)));
    let mut numbers = found.expect("a user `postgres` or `nobody`").split(':').skip(2).map(|it| it.parse());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Some((user, group)),
        _ => panic!("/etc/passwd is odd"),
    }
}

fn give_to_its_user(path: &Path) {
    if let Some((user, group)) = other_user() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("give the folder to Postgres");
    }
}

/// Where `initdb` and `postgres` are.
fn programs() -> PathBuf {
    let on_path = std::env::var_os("PATH").map(|it| std::env::split_paths(&it).collect::<Vec<_>>()).unwrap_or_default();
    let mut installed: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    installed.sort();
    let all = installed.into_iter().rev().map(|(_, path)| path).chain(on_path);
    all.into_iter().find(|path| path.join("initdb").exists()).expect("PostgreSQL is installed: run `make setup`")
}
