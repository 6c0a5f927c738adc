//! A clock that is wrong, for the processes that are started with it: a small library that stands between a program and the
//! clock of the system (`clock.c`). libfaketime is not used: with a monotonic clock that stays right, its waits go wrong.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::folder;

/// A clock that starts right.
pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    pub(crate) fn new(name: &str) -> Clock {
        let clock = Clock { file: folder().join(format!("{name}.clock")) };
        clock.set(0);
        clock
    }

    /// Moves it so many days from the right time; whoever has it sees that at once.
    pub(crate) fn set(&self, days: i64) {
        // In place: the file is mapped by those who have the clock.
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&self.file).expect("open the clock");
        let seconds = (days * 86_400).to_ne_bytes();
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds, 0).expect("set the clock");
    }

    /// What a process needs in its environment to have it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let file = self.file.to_string_lossy().into_owned();
        vec![("LD_PRELOAD".into(), library().into()), ("FRESHET_TEST_CLOCK".into(), file)]
    }
}

/// The library, made by the C compiler that librdkafka is built with.
fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = folder().join("clock.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/harness/clock.c");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(made.expect("run cc").success(), "compile {source}");
        library.to_string_lossy().into_owned()
    })
}
