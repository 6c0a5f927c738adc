//! A pooler before Postgres: the real pgbouncer, in the modes that people run it in.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::harness::{Process, World, cache_folder, data, folder};

const ENDS_WITHIN: Duration = Duration::from_secs(60);
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A running pgbouncer. Dropping it ends it.
struct Pooler {
    child: Child,
    url: String,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What `scripts/setup tests` unpacked.
fn installed() -> PathBuf {
    let folder = cache_folder().join("pgbouncer");
    assert!(folder.join("usr/sbin/pgbouncer").exists(), "run scripts/setup tests");
    folder
}

impl Pooler {
    /// Starts one before the Postgres of a world, with these lines in its configuration.
    fn start(world: &World, name: &str, lines: &[&str]) -> Pooler {
        let url = world.database_url();
        let options: PgConnectOptions = url.parse().expect("a URL");
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port();
        let place = folder().join(format!("{}-{name}", world.name()));
        fs::create_dir_all(&place).expect("make a folder");
        let server = url.split_once("://").expect("a URL").1;
        let login = server.rsplit_once('@').map_or("", |(login, _)| login);
        let password = login.split_once(':').map(|(_, password)| format!(" password={password}")).unwrap_or_default();
        let mut ini = format!(
            "[databases]\n* = host={} port={} user={}{password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n",
            options.get_host(),
            options.get_port(),
            options.get_username(),
        );
        for line in lines {
            writeln!(ini, "{line}").expect("write to a string");
        }
        let configuration = place.join("pgbouncer.ini");
        fs::write(&configuration, ini).expect("write the configuration");
        let log = fs::File::create(place.join("log")).expect("make the log");
        let installed = installed();
        let libraries: Vec<String> = glob_libraries(&installed);
        let mut command = Command::new(installed.join("usr/sbin/pgbouncer"));
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        // It does not run as root.
        if fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0) {
            command.args(["-u", "nobody"]);
        }
        command.arg(&configuration).stdin(Stdio::null()).stderr(log.try_clone().expect("share the log")).stdout(log);
        let pooler = Pooler {
            child: command.spawn().expect("start pgbouncer"),
            url: format!("postgres://{}@127.0.0.1:{port}/{}", options.get_username(), world.name()),
        };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < STARTS_WITHIN, "{}", fs::read_to_string(place.join("log")).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(20));
        }
        pooler
    }

    /// Runs a command of freshet's through it.
    fn run(&self, world: &World, arguments: &[&str]) -> Process {
        world.spawn_with(arguments, &[("FRESHET__POSTGRES__URL", self.url.clone())])
    }
}

fn glob_libraries(installed: &std::path::Path) -> Vec<String> {
    let folders = fs::read_dir(installed.join("usr/lib")).into_iter().flatten().flatten();
    folders.map(|folder| folder.path().to_string_lossy().into_owned()).collect()
}

/// What a client such as sqlx asks for as it connects, and freshet's own settings.
const IGNORED: &str = "ignore_startup_parameters = extra_float_digits, options";

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_refused_and_one_that_does_not_is_worked_with() {
    let world = World::new("pooler").await;

    // In transaction mode, whoever would write refuses, and says what to do.
    let pooler = Pooler::start(&world, "transaction", &["pool_mode = transaction", IGNORED]);
    for arguments in
        [&["process", "health"][..], &["setup"], &["migrate"], &["replay", "health", "--from", "beginning"]]
    {
        let mut command = pooler.run(&world, arguments);
        let code = command.ended(ENDS_WITHIN).await;
        let said = command.log();
        assert!(code.is_some_and(|code| code != 0), "{arguments:?}: {code:?}\n{said}");
        assert!(said.contains("behind a pooler in transaction mode"), "{arguments:?}: {said}");
        assert!(said.contains("pool_mode = session"), "{arguments:?}: {said}");
    }
    drop(pooler);

    // Not told to ignore what it does not know, it lets nobody in; the reason is told with what to do.
    let pooler = Pooler::start(&world, "strict", &["pool_mode = session"]);
    let mut command = pooler.run(&world, &["setup"]);
    assert_eq!(command.ended(ENDS_WITHIN).await, Some(1), "{}", command.log());
    assert!(command.log().contains("a pooler (pgbouncer) refuses"), "{}", command.log());
    drop(pooler);

    // In session mode it drops the settings of the session: they are missed, and the user can have them instead.
    let pooler = Pooler::start(&world, "session", &["pool_mode = session", IGNORED]);
    let mut command = pooler.run(&world, &["process", "health"]);
    assert_eq!(command.ended(ENDS_WITHIN).await, Some(1), "{}", command.log());
    let said = command.log();
    let (_, statements) = said.split_once("(RECONNECT) after ").unwrap_or_else(|| panic!("{said}"));
    let statements: Vec<&str> = statements.lines().next().unwrap_or_default().split("; ").collect();
    assert!(statements.iter().any(|it| it.contains("idle_in_transaction_session_timeout = '120s'")), "{said}");
    let mut direct = world.database_url().parse::<PgConnectOptions>().expect("a URL").connect().await;
    let direct = direct.as_mut().expect("connect");
    for statement in &statements {
        // For this database alone: other worlds share the server, and its user.
        let statement = statement.replace(" SET ", &format!(" IN DATABASE \"{}\" SET ", world.name()));
        sqlx::query(sqlx::AssertSqlSafe(statement.as_str())).execute(&mut *direct).await.expect("alter the role");
    }
    drop(pooler);
    // Its connections to Postgres are made anew, with what the user has now.
    let pooler = Pooler::start(&world, "session-again", &["pool_mode = session", IGNORED]);
    let processor = pooler.run(&world, &["process", "health"]);
    let others = world.run(&[freshet::roles::Role::Ingest, freshet::roles::Role::Metrics]);
    world.put("health/a.csv", data::health(4, "2025-01-01", 5, 1)).await;
    world.settle().await;
    world.all_hold().await;
    assert_eq!(processor.terminate(Duration::from_secs(30)).await, Some(0));
    others.stop().await;
}
