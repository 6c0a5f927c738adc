//! A real pipeline of the test's own: `freshet up` in a folder that goes with it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use freshet::local;

const FRESHET: &str = env!("CARGO_BIN_EXE_freshet");
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Draining is bounded by 30 s, stopping the stack by less.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// A running pipeline. Dropping it stops it and deletes its folder.
pub(crate) struct Pipeline {
    child: Child,
    folder: PathBuf,
    env: BTreeMap<String, String>,
}

/// A table as psql shows it: the names of its columns, and its rows.
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Rows {
    /// A row's cell by the name of its column.
    pub(crate) fn cell<'a>(&self, row: &'a [String], column: &str) -> &'a str {
        let index = self.columns.iter().position(|it| it == column).unwrap_or_else(|| panic!("no column {column}"));
        &row[index]
    }
}

impl Pipeline {
    /// Starts it in a folder of that name.
    pub(crate) fn start(name: &str) -> Pipeline {
        Pipeline::start_with(name, &[])
    }

    /// Starts it with options of `freshet up`.
    pub(crate) fn start_with(name: &str, options: &[&str]) -> Pipeline {
        // Not below the target folder: that may lie in a home that Postgres' user cannot enter.
        let folder = std::env::temp_dir().join(format!("freshet-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("make the folder of the test");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("open the folder to Postgres");
        let log = File::create(folder.join("up.log")).expect("make the log");
        let mut command = freshet(&[&["up"], options].concat(), &folder.join("data"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        let child = command.spawn().expect("start freshet up");
        let mut pipeline = Pipeline { child, folder, env: BTreeMap::new() };
        let since = Instant::now();
        loop {
            if let Some(env) = local::read_env(&pipeline.folder.join("data")) {
                pipeline.env = env.into_iter().collect();
                return pipeline;
            }
            let ended = pipeline.child.try_wait().expect("look at freshet up");
            let log = || fs::read_to_string(pipeline.folder.join("up.log")).unwrap_or_default();
            assert!(ended.is_none() && since.elapsed() < START_TIMEOUT, "freshet up: {ended:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A folder beside the pipeline's data.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A value of the env file.
    pub(crate) fn env(&self, name: &str) -> &str {
        self.env.get(name).unwrap_or_else(|| panic!("{name} is not in the env file"))
    }

    /// Runs a command of freshet against it.
    pub(crate) fn run(&self, arguments: &[&str]) {
        let output = freshet(arguments, &self.folder.join("data")).output().expect("run freshet");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "freshet {arguments:?}: {complaint}");
    }

    /// Drops a file in the raw bucket.
    pub(crate) fn drop_file(&self, key: &str, file: &Path) {
        let address = format!("{}/{}/{key}", self.env("AWS_ENDPOINT_URL_S3"), self.env("FRESHET_RAW_BUCKET"));
        self.s3(&["-T", &file.to_string_lossy(), &address]);
    }

    /// Reads an object of the processed bucket.
    pub(crate) fn output(&self, key: &str) -> Vec<u8> {
        let address = format!("{}/{}/{key}", self.env("AWS_ENDPOINT_URL_S3"), self.env("FRESHET_PROCESSED_BUCKET"));
        self.s3(&[&address])
    }

    fn s3(&self, arguments: &[&str]) -> Vec<u8> {
        let mut curl = Command::new("curl");
        let signature = format!("aws:amz:{}:s3", self.env("AWS_REGION"));
        let user = format!("{}:{}", self.env("AWS_ACCESS_KEY_ID"), self.env("AWS_SECRET_ACCESS_KEY"));
        curl.args(["-sS", "--fail", "--aws-sigv4", &signature, "--user", &user]).args(arguments);
        let output = curl.output().expect("run curl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Changes the database, as its owner.
    pub(crate) fn execute(&self, sql: &str) {
        self.psql(sql, "");
    }

    /// Runs a dashboard's query, as a user that may read and no more.
    pub(crate) fn query(&self, sql: &str) -> Rows {
        self.query_in("public", sql)
    }

    /// The same, in a session that searches that schema.
    pub(crate) fn query_in(&self, schema: &str, sql: &str) -> Rows {
        let options = format!("-c role=grafana -c default_transaction_read_only=on -c search_path={schema}");
        let said = self.psql(sql, &options);
        let mut reader = csv::Reader::from_reader(said.as_slice());
        let columns = reader.headers().expect("the columns").iter().map(str::to_owned).collect();
        let rows = reader.records().map(|row| row.expect("a row").iter().map(str::to_owned).collect()).collect();
        Rows { columns, rows }
    }

    fn psql(&self, sql: &str, options: &str) -> Vec<u8> {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--csv", "--set", "ON_ERROR_STOP=1", "-c", sql, self.env("DATABASE_URL")]);
        let output = psql.env("PGOPTIONS", options).output().expect("run psql");
        assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// The command as just built, with nothing of ours in its environment.
fn freshet(arguments: &[&str], data: &Path) -> Command {
    let mut command = Command::new(FRESHET);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let others = ["DATABASE_URL", "KAFKA_BROKERS"].contains(&name.as_ref()) || name.starts_with("AWS_");
        if others || (name.starts_with("FRESHET") && name != "FRESHET_HOME") {
            command.env_remove(name.as_ref());
        }
    }
    command.arg("--data").arg(data).args(arguments);
    command
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().ok();
        let since = Instant::now();
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if since.elapsed() > STOP_TIMEOUT {
                self.child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        local::remove(&self.folder.join("data")).ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}
