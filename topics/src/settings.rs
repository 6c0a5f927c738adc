//! A check that several sections of the settings share.

/// That none of these settings of a section is 0.
///
/// # Errors
/// The first that is, in one line for the person who wrote it.
pub fn at_least_one(section: &str, settings: &[(&str, u64)]) -> Result<(), String> {
    match settings.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(format!("{section}.{name} must be at least 1")),
        None => Ok(()),
    }
}
