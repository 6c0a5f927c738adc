//! Which pipeline this process runs. It is known before the command line is parsed, because the names of the domains are
//! values and completions of it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use freshet_topics::Pipeline;
use freshet_topics::pipeline::mistake::Mistake;

/// The option that names a pipeline folder.
const OPTION: &str = "--pipeline";
/// The variable that does, where the option is not given.
pub const VARIABLE: &str = "FRESHET_PIPELINE";

static CHOSEN: OnceLock<Result<&'static Pipeline, Broken>> = OnceLock::new();

/// A pipeline folder that cannot be run, with every mistake in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The folder.
    pub folder: PathBuf,
    /// What is wrong.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mistakes = match self.mistakes.len() {
            1 => "a mistake".to_owned(),
            more => format!("{more} mistakes"),
        };
        write!(formatter, "the pipeline {} has {mistakes}:", self.folder.display())?;
        self.mistakes.iter().try_for_each(|mistake| write!(formatter, "\n  {mistake}"))
    }
}

impl std::error::Error for Broken {}

/// Reads a pipeline folder.
///
/// # Errors
/// Every mistake in it.
pub fn read(folder: &Path) -> Result<&'static Pipeline, Broken> {
    Pipeline::read(folder).map_err(|mistakes| Broken { folder: folder.to_owned(), mistakes })
}

/// Chooses the pipeline of this process: the folder that these arguments name, else the variable's, else the shipped one. A
/// broken one is told by [`sound`].
pub fn choose(arguments: impl IntoIterator<Item = OsString>, variable: Option<OsString>) {
    let folder = named(arguments, variable);
    let _ = CHOSEN.set(folder.map_or_else(|| Ok(Pipeline::shipped()), |folder| read(&folder)));
}

/// The folder that is named, as clap would read it.
fn named(arguments: impl IntoIterator<Item = OsString>, variable: Option<OsString>) -> Option<PathBuf> {
    let mut arguments = arguments.into_iter().take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == OPTION {
            return arguments.next().map(PathBuf::from);
        }
        let value = argument.to_str().and_then(|argument| argument.strip_prefix(OPTION)?.strip_prefix('='));
        if let Some(value) = value {
            return Some(PathBuf::from(value));
        }
    }
    variable.filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The pipeline of this process, for lists of names: the shipped one where none was chosen, or a broken one.
pub fn chosen() -> &'static Pipeline {
    sound().unwrap_or_else(|_| Pipeline::shipped())
}

/// The pipeline of this process, to run.
///
/// # Errors
/// Where the folder that was chosen has mistakes.
pub fn sound() -> Result<&'static Pipeline, Broken> {
    CHOSEN.get_or_init(|| Ok(Pipeline::shipped())).clone()
}

#[cfg(test)]
mod tests {
    use freshet_topics::pipeline::mistake::Place;

    use super::*;

    #[test]
    fn the_option_wins_over_the_variable() {
        let cases: [(&[&str], Option<&str>, Option<&str>); 7] = [
            (&["freshet", "up"], None, None),
            (&["freshet", "up"], Some(""), None),
            (&["freshet", "up"], Some("b"), Some("b")),
            (&["freshet", "--pipeline", "a", "up"], Some("b"), Some("a")),
            (&["freshet", "up", "--pipeline=a"], Some("b"), Some("a")),
            (&["freshet", "up", "--", "--pipeline=a"], None, None),
            (&["freshet", "--pipeline"], Some("b"), None),
        ];
        for (arguments, variable, expected) in cases {
            let found = named(arguments.iter().map(OsString::from), variable.map(OsString::from));
            assert_eq!(found, expected.map(PathBuf::from), "{arguments:?} {variable:?}");
        }
    }

    #[test]
    fn every_mistake_is_a_line() {
        let mistake =
            |line| Mistake { file: "outputs/a.sql".into(), place: Place { line, column: 2 }, said: "no".into() };
        let broken = Broken { folder: "ours".into(), mistakes: vec![mistake(1), mistake(3)] };
        let said = "the pipeline ours has 2 mistakes:\n  outputs/a.sql:1:2: no\n  outputs/a.sql:3:2: no";
        assert_eq!(broken.to_string(), said);
    }
}
