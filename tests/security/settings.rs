//! `freshet` with settings as they would be mounted, and a page of documentation taken apart.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::parts::Part;

pub(crate) const FRESHET: &str = env!("CARGO_BIN_EXE_freshet");
/// What a role or a connection does soon it does within this.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Settings by the name of their variable.
#[derive(Clone, Default)]
pub(crate) struct Settings(pub(crate) BTreeMap<String, String>);

impl Settings {
    /// `section.key`.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Settings {
        self.0.insert(format!("FRESHET__{}", key.to_uppercase().replace('.', "__")), value.to_owned());
        self
    }

    pub(crate) fn set_variable(mut self, name: &str, value: &str) -> Settings {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same, in a file that is named instead.
    pub(crate) fn secret(self, folder: &Path, key: &str, value: &str) -> Settings {
        static WRITTEN: AtomicUsize = AtomicUsize::new(0);
        let file = folder.join(format!("{key}-{}", WRITTEN.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, format!("{value}\n")).expect("write a secret");
        self.set(&format!("{key}_file"), &file.display().to_string())
    }

    pub(crate) fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(FRESHET);
        command.args(arguments).env_clear().envs(&self.0).current_dir(folder);
        command.env("PATH", std::env::var_os("PATH").expect("PATH"));
        command
    }

    /// Runs it to its end: whether it succeeded, and all that it said.
    pub(crate) fn run(&self, folder: &Path, arguments: &[&str]) -> (bool, String) {
        let output = self.command(folder, arguments).output().expect("run freshet");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Starts a role.
    pub(crate) fn start(&self, folder: &Path, name: &str, arguments: &[&str]) -> Part {
        Part::start(name, folder, &self.command(folder, arguments))
    }
}

/// A folder of a test in a place that other users can enter.
pub(crate) fn folder(name: &str) -> Folder {
    let folder = std::env::temp_dir().join(format!("freshet-security-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("make the folder of the test");
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("open it");
    Folder(folder)
}

/// Goes when it is dropped, unless the test fails.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.0).ok();
        }
    }
}

/// Asks until there is an answer; bounded.
pub(crate) async fn within<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The blocks of a language in a page.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(path).expect("read the page");
    let opening = format!("\n```{language}\n");
    let blocks = text.split(&opening).skip(1);
    blocks.map(|rest| rest.split("\n```").next().expect("an end").to_owned()).collect()
}
