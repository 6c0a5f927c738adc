//! Packages from the npm registry that only tests use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Two tests would install into one folder.
static INSTALLING: Mutex<()> = Mutex::new(());

/// A folder with the packages of a package.json, fetched if they are not there yet.
pub(crate) fn installed(name: &str, wanted: &str) -> PathBuf {
    let _one = INSTALLING.lock().expect("no test panics while it installs");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mark = folder.join("installed.json");
    if fs::read_to_string(&mark).ok().as_deref() != Some(wanted) {
        fs::create_dir_all(&folder).expect("make the folder of the packages");
        fs::write(folder.join("package.json"), wanted).expect("write package.json");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]).current_dir(&folder);
        let output = npm.output().expect("run npm: scripts/setup installs it");
        assert!(output.status.success(), "npm install: {}", String::from_utf8_lossy(&output.stderr));
        fs::write(&mark, wanted).expect("mark the packages as installed");
    }
    folder
}
