//! The `freshet` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    freshet::cli::main()
}
