//! The one local stack of this test binary, in a data folder of its own.
//!
//! It is started by the first test that needs it and lives on a thread that never ends, so that its children end
//! with the process, however that ends. A small shell waits for that end and deletes the folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use freshet::local::{Endpoints, LocalStack, Options};

static STACK: OnceLock<Endpoints> = OnceLock::new();
/// Its other end closes when this process ends.
static REAPER: OnceLock<ChildStdin> = OnceLock::new();

/// Waits for the end of its standard input, then for the children to let go of the folder.
const REAP: &str = r#"cat >/dev/null; for i in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit; sleep 1; done"#;

/// Where the stack answers; starts it if this is the first call.
pub(crate) fn endpoints() -> &'static Endpoints {
    STACK.get_or_init(start)
}

/// The folder of everything that this test binary leaves on disk; gone when it ends.
pub(crate) fn folder() -> PathBuf {
    // Not below the target folder: that may lie in a home that Postgres' user cannot enter.
    let folder = std::env::temp_dir().join(format!("freshet-e2e-{}", std::process::id()));
    REAPER.get_or_init(|| {
        fs::create_dir_all(&folder).expect("make the folder of the tests");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("open the folder to Postgres");
        let mut reaper = Command::new("sh");
        reaper.args(["-c", REAP, "sh"]).arg(&folder);
        // Not in our group: Ctrl-C ends us, and then it has work to do.
        reaper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        reaper.spawn().expect("start the reaper").stdin.take().expect("piped")
    });
    folder
}

fn start() -> Endpoints {
    let options = Options { data_dir: folder().join("stack"), kafka: true, postgres: true, s3: true, tell_to: None };
    let (tell, told) = mpsc::channel();
    std::thread::Builder::new()
        .name("stack".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let mut stack = LocalStack::start(options, |_| ()).await.expect("start the local stack");
                tell.send(stack.endpoints().clone()).expect("somebody waits for the stack");
                let exited = stack.died().await;
                eprintln!("the stack of the tests is gone: {exited}");
                std::process::abort();
            });
        })
        .expect("start the stack's thread");
    told.recv_timeout(Duration::from_secs(120)).expect("the local stack comes up")
}
