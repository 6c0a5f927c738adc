//! Patterns that say which object keys belong to a domain: a folder, which ends in `/`, or one exact key.

/// What is wrong with a pattern.
pub fn mistake_in(pattern: &str) -> Option<String> {
    let is_key = !pattern.is_empty() && !pattern.starts_with('/') && !pattern.contains(['*', '?', '\\']);
    (!is_key).then(|| format!("`{pattern}` is not an object key: a folder ends in `/`, anything else is one exact key"))
}

/// Whether an object key may belong to both patterns.
pub fn overlap(left: &str, right: &str) -> bool {
    let holds = |folder: &str, key: &str| folder.ends_with('/') && key.starts_with(folder);
    left == right || holds(left, right) || holds(right, left)
}
