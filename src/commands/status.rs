//! `freshet status`: the progress of everything.
//!
//! [`crate::status`] reads it; here are the options, and how it is shown.

mod render;

use std::time::Duration;

pub use render::render;
pub(in crate::commands) use render::word;

/// Options of `freshet status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// List the files too, newest first
    #[arg(long)]
    pub files: bool,
    /// Maximum number of files to list
    #[arg(long, value_name = "N", default_value_t = 50, requires = "files", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub files_max: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Return once everything dropped so far is applied and published
    #[arg(long, conflicts_with = "files")]
    pub wait: bool,
    /// Maximum time that --wait waits, as 500ms, 60s, 5m or 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Longest wait: as good as for ever, and no clock overflows on it.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `500ms`, `60s`, `5m`, `1h 30m`; a bare number is seconds.
///
/// # Errors
/// If the text is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs);
    let parsed = seconds.or_else(|_| humantime::parse_duration(text));
    parsed.map(|duration| duration.min(TIMEOUT_MAX)).map_err(|_| "write a time as 500ms, 60s, 5m or 1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_as_people_write_them() {
        for (text, milliseconds) in
            [("500ms", 500), ("60s", 60_000), ("60", 60_000), ("5m", 300_000), ("1h", 3_600_000), ("1h 30m", 5_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "60 x", "99999999999999999999s", "99999999999999999999"] {
            assert_eq!(parse_duration(text), Err("write a time as 500ms, 60s, 5m or 1h".to_owned()), "{text}");
        }
        assert_eq!(parse_duration("18446744073709551615"), Ok(TIMEOUT_MAX));
    }
}
