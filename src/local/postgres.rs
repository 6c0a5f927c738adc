//! A real PostgreSQL on loopback, with its own password, fsync on.
//!
//! `postgres` itself is the child (`pg_ctl` would put a shell between us), so that the death signal reaches it: SIGQUIT,
//! which takes its own children along; the next start recovers from the log of changes. As root it runs as the user
//! `postgres` or `nobody`, which it insists on; where that user cannot reach the data folder (a home of mode 0700), the
//! data lives in a folder under /var/tmp instead, and the stack says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Signal, geteuid};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::child::{self, Child, NotStarted, Spec, StopSteps, User};
use super::components::{Components, Postgres};
use super::folder::{Folder, State, make_dir, write_private};

pub(super) const NAME: &str = "postgres";
pub(super) const PORTS: [&str; 1] = ["postgres"];
/// SIGINT is its fast shutdown (a checkpoint), SIGQUIT the immediate one, which still ends its children in order.
pub(super) const STOP: StopSteps = &[(Signal::INT, Duration::from_secs(20)), (Signal::QUIT, Duration::from_secs(6))];
const USER: &str = "freshet";
const DATABASE: &str = "freshet";
/// Recovery of two GiB of changes takes some tens of seconds.
const START_LIMIT: Duration = Duration::from_secs(180);
/// What is left of a killed predecessor notices its death within a second or so.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(15);

/// Where the server's files are and who it runs as.
struct Place {
    dir: PathBuf,
    user: Option<User>,
}

/// Starts Postgres and returns once its database answers.
pub(super) async fn start(folder: &Folder, components: &Components, place: PathBuf) -> anyhow::Result<Child> {
    let place = Place { dir: place, user: other_user()? };
    let server = choose_server(&components.postgres, &place.dir)?;
    init(&server, &place, &folder.state).await?;
    wait_for_predecessor(&place.data()).await?;
    write_config(&place, folder.state.port("postgres"))?;
    let since = Instant::now();
    loop {
        let mut child = Child::start(Spec {
            name: NAME,
            program: server.bin.join("postgres"),
            args: vec!["-D".into(), place.data().into()],
            env: vec![("LANG", "C".into()), ("HOME", place.dir.clone().into())],
            user: place.user,
            working_dir: "/".into(),
            log: folder.log(NAME),
            record: folder.record(NAME),
            on_our_death: Signal::QUIT,
            stop: STOP,
        })?;
        match ready(&mut child, &folder.state).await {
            // Its backends are still exiting.
            Err(error) if has_a_dying_predecessor(&error) && since.elapsed() < PREDECESSOR_WAIT => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            result => return result.map(|()| child),
        }
    }
}

/// Where the data of a folder is that has some.
pub(super) fn place(folder: &Folder) -> PathBuf {
    folder.state.postgres_dir.clone().unwrap_or_else(|| folder.root.join("postgres"))
}

/// The address of the database, password included.
pub(super) fn url(state: &State) -> String {
    format!("postgres://{USER}:{}@127.0.0.1:{}/{DATABASE}", state.postgres_password, state.port("postgres"))
}

/// Where the data of this folder is or is to be: in the folder itself, or under /var/tmp where its user cannot reach it.
pub(super) fn choose_place(folder: &mut Folder, progress: &impl Fn(&str)) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &folder.state.postgres_dir {
        if !dir.join("data").is_dir() {
            bail!(
                "the Postgres data of {} was in {}, which no longer exists: delete {0} to start over",
                folder.root.display(),
                dir.display()
            );
        }
        return Ok(dir.clone());
    }
    let dir = folder.root.join("postgres");
    make_dir(&dir, 0o700)?;
    let Some(user) = other_user()? else { return Ok(dir) };
    own(&dir, user)?;
    if dir.join("data").is_dir() || child::can_write(user, &dir) {
        return Ok(dir);
    }
    fs::remove_dir(&dir).ok();
    remove_orphans(&folder.root);
    let elsewhere = Path::new("/var/tmp").join(format!("freshet-{}", &folder.state.stack_id[..16]));
    if !elsewhere.exists() {
        fs::create_dir(&elsewhere).with_context(|| format!("make folder {}", elsewhere.display()))?;
        fs::set_permissions(&elsewhere, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        fs::write(elsewhere.join("owner"), folder.root.as_os_str().as_encoded_bytes())?;
        own(&elsewhere, user)?;
    }
    progress(&format!(
        "Postgres does not run as root, and its user cannot reach {}: its data is in {}",
        folder.root.display(),
        elsewhere.display()
    ));
    Ok(elsewhere)
}

/// Removes Postgres data under /var/tmp that belongs to this data folder or to a deleted one of the same path.
pub(super) fn remove_orphans(root: &Path) {
    for entry in fs::read_dir("/var/tmp").into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with("freshet-")
            && fs::symlink_metadata(entry.path()).is_ok_and(|m| m.is_dir())
            && fs::read(entry.path().join("owner")).is_ok_and(|owner| owner == root.as_os_str().as_encoded_bytes());
        if is_ours {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

impl Place {
    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

/// As root: the user to run as. Otherwise none: we run it ourselves.
fn other_user() -> anyhow::Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let found = ["postgres", "nobody"].iter().find_map(|name| find_user(&passwd, name));
    found.map(Some).context("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`: add one")
}

fn find_user(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2);
    Some(User { uid: numbers.next()?.parse().ok()?, gid: numbers.next()?.parse().ok()? })
}

fn own(path: &Path, user: User) -> anyhow::Result<()> {
    std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
        .with_context(|| format!("give {} to user {}", path.display(), user.uid))
}

/// The server that made the data, or the newest where there is none yet.
fn choose_server(installed: &[Postgres], dir: &Path) -> anyhow::Result<Postgres> {
    let Ok(version) = fs::read_to_string(dir.join("data/PG_VERSION")) else {
        return installed.first().cloned().context("no PostgreSQL is installed: run `make setup`");
    };
    let made_by: u32 = version.trim().parse().with_context(|| format!("read {}/data/PG_VERSION", dir.display()))?;
    let found = installed.iter().find(|postgres| postgres.major == made_by).cloned();
    found.with_context(|| {
        let majors: Vec<String> = installed.iter().map(|postgres| postgres.major.to_string()).collect();
        format!(
            "the data in {} was created by PostgreSQL {made_by}, but {} is installed: install postgresql-{made_by}, \
             or use another folder with --data",
            dir.display(),
            majors.join(", ")
        )
    })
}

/// Makes the data once, under another name first: an interrupted run leaves nothing that looks finished.
async fn init(server: &Postgres, place: &Place, state: &State) -> anyhow::Result<()> {
    if place.data().exists() {
        return Ok(());
    }
    let (new, password) = (place.dir.join("data.new"), place.dir.join("password"));
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("remove {}", new.display()))?;
    }
    // Not on the command line, where anyone could read it.
    write_private(&password, &format!("{}\n", state.postgres_password))?;
    if let Some(user) = place.user {
        own(&password, user)?;
    }
    let program = server.bin.join("initdb");
    let options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username", USER, "--pgdata"];
    let mut args: Vec<std::ffi::OsString> = options.map(Into::into).into();
    args.extend([new.clone().into(), "--pwfile".into(), password.clone().into()]);
    let (user, home) = (place.user, place.dir.clone());
    let work = move || {
        let args: Vec<&std::ffi::OsStr> = args.iter().map(|arg| arg.as_os_str()).collect();
        child::run(&program, &args, user, &[("LANG", "C".into()), ("HOME", home.into())])
    };
    let result = tokio::task::spawn_blocking(work).await.context("make the Postgres data")?;
    fs::remove_file(&password).ok();
    result.context("make the Postgres data")?;
    fs::rename(&new, place.data()).context("make the Postgres data")
}

/// Waits for a server of an earlier run that is still going down. A lock file whose process is no Postgres of this
/// folder is stale, but would stop the new server: it is removed.
async fn wait_for_predecessor(data: &Path) -> anyhow::Result<()> {
    if cfg!(not(target_os = "linux")) {
        // Without /proc a stale file cannot be told from a good one: Postgres looks at it itself.
        return Ok(());
    }
    let file = data.join("postmaster.pid");
    let since = Instant::now();
    while let Ok(text) = fs::read_to_string(&file) {
        let pid = text.lines().next().unwrap_or("").trim().to_owned();
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&command).contains(&*data.to_string_lossy()) {
            fs::remove_file(&file).with_context(|| format!("remove stale {}", file.display()))?;
            return Ok(());
        }
        if since.elapsed() > PREDECESSOR_WAIT {
            bail!("a Postgres already runs on {} (process {pid}): stop it, then start again", data.display());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn has_a_dying_predecessor(error: &anyhow::Error) -> bool {
    let signs = ["is still in use", "lock file \"postmaster.pid\" already exists"];
    error.downcast_ref::<NotStarted>().is_some_and(|e| signs.iter().any(|sign| e.log_end.contains(sign)))
}

fn write_config(place: &Place, port: u16) -> anyhow::Result<()> {
    let path = place.data().join("postgresql.conf");
    write_private(&path, &config(port))?;
    place.user.map_or(Ok(()), |user| own(&path, user))
}

fn config(port: u16) -> String {
    format!(
        "\
# Written by freshet at each start; your own settings: ALTER SYSTEM.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
log_min_messages = warning
log_checkpoints = off
cluster_name = 'freshet'

# Durable: what was committed survives a power cut (fsync and synchronous_commit stay on). No standby reads the log.
wal_level = minimal
max_wal_senders = 0
wal_compression = lz4
max_wal_size = 2GB
min_wal_size = 256MB
checkpoint_timeout = 15min

shared_buffers = 256MB
work_mem = 16MB
maintenance_work_mem = 128MB
random_page_cost = 1.1
jit = off
"
    )
}

async fn ready(child: &mut Child, state: &State) -> anyhow::Result<()> {
    let refused = Mutex::new(None);
    let probe = || async {
        let Err(error) = connect_and_prepare(state).await else { return true };
        // Class 28: the server is there and does not know the password. Waiting does not help.
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default();
        let is_refused = code.starts_with("28");
        if is_refused {
            *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        is_refused
    };
    child.ready(START_LIMIT, probe).await?;
    match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(reason) => bail!("Postgres refuses the password in stack.json ({reason}): delete the data folder"),
        None => Ok(()),
    }
}

/// Connects to the database, made where it is not there yet.
async fn connect_and_prepare(state: &State) -> Result<(), sqlx::Error> {
    match connect(state, DATABASE).await {
        Ok(connection) => connection.close().await,
        // invalid_catalog_name: there is no such database.
        Err(error) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("3D000") => {
            let mut connection = connect(state, "postgres").await?;
            sqlx::query("CREATE DATABASE freshet").execute(&mut connection).await?;
            connection.close().await
        }
        Err(error) => Err(error),
    }
}

async fn connect(state: &State, database: &str) -> Result<PgConnection, sqlx::Error> {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(state.port("postgres"))
        .username(USER)
        .password(&state.postgres_password)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
        .disable_statement_logging()
        .connect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(majors: &[u32]) -> Vec<Postgres> {
        majors.iter().map(|&major| Postgres { major, bin: format!("/pg/{major}").into() }).collect()
    }

    #[test]
    fn the_server_that_made_the_data_is_chosen() {
        let temp = tempfile::tempdir().expect("tempdir");
        assert_eq!(choose_server(&installed(&[17, 15]), temp.path()).expect("new").major, 17);
        fs::create_dir(temp.path().join("data")).expect("mkdir");
        fs::write(temp.path().join("data/PG_VERSION"), "15\n").expect("write");
        assert_eq!(choose_server(&installed(&[17, 15]), temp.path()).expect("old").major, 15);
        let error = choose_server(&installed(&[17, 16]), temp.path()).expect_err("too new").to_string();
        assert!(
            error.contains("install postgresql-15") && error.contains("17, 16") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres2:x:7:7::/:\npostgres:x:101:104:,,,:/var/lib:/bin/bash\n";
        assert_eq!(find_user(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(find_user(passwd, "nobody"), None);
    }

    #[tokio::test]
    async fn a_stale_lock_file_whose_id_is_anothers_now_is_removed() {
        let temp = tempfile::tempdir().expect("tempdir");
        let file = temp.path().join("postmaster.pid");
        // Our own id: alive, and no Postgres.
        fs::write(&file, format!("{}\n/somewhere\n", std::process::id())).expect("write");
        wait_for_predecessor(temp.path()).await.expect("stale");
        assert!(!file.exists());
    }
}
