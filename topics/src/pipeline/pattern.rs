//! Patterns that say which object keys belong to a domain: a folder, which ends in `/`, or one exact key.

/// What is wrong with a pattern.
pub fn mistake_in(pattern: &str) -> Option<String> {
    let is_key = !pattern.is_empty() && !pattern.starts_with('/') && !pattern.contains(['*', '?', '\\']);
    (!is_key).then(|| format!("`{pattern}` is not an object key: a folder ends in `/`, anything else is one exact key"))
}

/// That an object key of this pattern may also match one of `theirs`, the patterns of the domain `other`.
pub fn clash<'a>(pattern: &str, mut theirs: impl Iterator<Item = &'a str>, other: &str) -> Option<String> {
    let theirs = theirs.find(|theirs| overlap(pattern, theirs))?;
    Some(format!("a file under `{pattern}` may also match `{theirs}` of {other}"))
}

/// Whether an object key may belong to both patterns.
fn overlap(left: &str, right: &str) -> bool {
    let holds = |folder: &str, key: &str| folder.ends_with('/') && key.starts_with(folder);
    left == right || holds(left, right) || holds(right, left)
}
