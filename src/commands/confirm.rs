//! Asks for confirmation before something is lost or repeated.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result};

/// Whether the user agrees: `yes` confirms beforehand, for scripts; otherwise the terminal is asked; without a terminal
/// the answer is no.
///
/// # Errors
/// If the terminal cannot be read.
pub fn confirm(question: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        println!("Nothing was changed: add --yes to do it.");
        return Ok(false);
    }
    print!("{question} [y/N] ");
    std::io::stdout().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    let agreed = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if !agreed {
        println!("Nothing was changed.");
    }
    Ok(agreed)
}
