//! Output to standard output and standard error.
//!
//! [`println`], [`print`] and [`eprintln`] replace those of the standard library in this crate, which panic if the
//! reader has gone (`freshet status | head -1`). These end the process quietly then, with the exit code that a shell
//! gives whatever is ended by a closed pipe. They also repeat, in every command that a text proposes between backticks,
//! the options by which this process found its stack: what is copied from the screen then does what it says.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process;
use std::sync::OnceLock;

/// The exit code that a shell reports for a process ended by a closed pipe: 128 plus the number of SIGPIPE.
pub(crate) const CLOSED_PIPE: i32 = 141;
/// How a proposed command begins.
const COMMAND: &str = "`freshet ";

static OPTIONS: OnceLock<String> = OnceLock::new();

/// Sets the options that every proposed command repeats, each with its value; empty for none.
pub(crate) fn repeat_options(options: String) {
    let _ = OPTIONS.set(options);
}

/// The text with the options in the commands that it proposes. The shell's own quoting: a folder may have any name.
pub(crate) fn with_options<'t>(text: &'t str, options: &str) -> std::borrow::Cow<'t, str> {
    match options.is_empty() || !text.contains(COMMAND) {
        true => text.into(),
        false => text.replace(COMMAND, &format!("{COMMAND}{options} ")).into(),
    }
}

/// A word as a shell takes it for one.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A command that a page proposes, with the options by which this process found its stack.
pub(crate) fn command(arguments: &str) -> String {
    match OPTIONS.get().map_or("", String::as_str) {
        "" => format!("freshet {arguments}"),
        options => format!("freshet {options} {arguments}"),
    }
}

/// Writes to standard output; ends the process if nobody reads it.
pub(crate) fn out(text: fmt::Arguments<'_>, end: &str) {
    let text = text.to_string();
    raw(&format!("{}{end}", with_options(&text, OPTIONS.get().map_or("", String::as_str))));
}

/// The same for what a program reads: nothing is added.
pub(crate) fn raw(text: &str) {
    bytes(text.as_bytes());
}

/// The same for what is too much to be kept whole: write it in parts, through a buffer. It returns no error, as [`raw`].
pub(crate) struct Raw;

impl Write for Raw {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        bytes(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => process::exit(CLOSED_PIPE),
        Err(error) => {
            err(format_args!("freshet: write to standard output: {error}"));
            process::exit(1);
        }
    }
}

/// Writes a line to standard error. Errors are ignored: there is nowhere to report them.
pub(crate) fn err(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let text = with_options(&text, OPTIONS.get().map_or("", String::as_str));
    let _ = writeln!(io::stderr().lock(), "{text}");
}

macro_rules! println {
    () => { $crate::print::out(format_args!(""), "\n") };
    ($($argument:tt)*) => { $crate::print::out(format_args!($($argument)*), "\n") };
}
macro_rules! print {
    ($($argument:tt)*) => { $crate::print::out(format_args!($($argument)*), "") };
}
macro_rules! eprintln {
    ($($argument:tt)*) => { $crate::print::err(format_args!($($argument)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposed_command_repeats_how_the_stack_was_found() {
        let cases = [
            ("see `freshet status --files`", "", "see `freshet status --files`"),
            ("see `freshet status --files`", "--data here", "see `freshet --data here status --files`"),
            (
                "`freshet a`, then `freshet b`",
                "--data 'a b'",
                "`freshet --data 'a b' a`, then `freshet --data 'a b' b`",
            ),
            ("freshet is up", "--data here", "freshet is up"),
        ];
        for (text, options, expected) in cases {
            assert_eq!(with_options(text, options), expected);
        }
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_part_it() {
        let cases =
            [("a/b-1.toml", "a/b-1.toml"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")];
        for (word, expected) in cases {
            assert_eq!(quoted(word), expected);
        }
    }
}
