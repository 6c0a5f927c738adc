//! Secrets by file: beside every setting that is one, the same name with `_file` behind it names a file that holds
//! it, as Docker and Kubernetes mount them.

use std::fs;

use anyhow::{Context, ensure};
use config::{Map, Value, ValueKind};

/// The settings that are secrets, as (section, key).
pub const SECRETS: [(&str, &str); 8] = [
    ("kafka", "sasl_password"),
    ("kafka", "ssl_key_password"),
    ("kafka", "oauth_client_secret"),
    ("postgres", "url"),
    ("postgres", "password"),
    ("s3", "access_key_id"),
    ("s3", "secret_access_key"),
    ("http", "token"),
];

/// Longest secret: a URL or a token is a few hundred bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads the named files, and replaces their names by their contents.
///
/// # Errors
/// If a secret is given twice, or its file cannot be read; the error names the file, and holds nothing of it.
pub(super) fn read(settings: &mut Value) -> anyhow::Result<()> {
    for (section, key) in SECRETS {
        let ValueKind::Table(sections) = &mut settings.kind else { return Ok(()) };
        let Some(ValueKind::Table(table)) = sections.get_mut(section).map(|found| &mut found.kind) else { continue };
        let name = format!("{section}.{key}_file");
        let Some(path) = take(table, &format!("{key}_file")).filter(|path| !path.is_empty()) else { continue };
        let given = table.get(key).is_some_and(|value| value.clone().into_string().is_ok_and(|text| !text.is_empty()));
        ensure!(!given, "{section}.{key} and {name} are both set: leave one out");
        let secret = of_file(&path).with_context(|| format!("read {name} = {path}"))?;
        table.insert(key.to_owned(), Value::new(None, ValueKind::String(secret)));
    }
    Ok(())
}

fn take(table: &mut Map<String, Value>, key: &str) -> Option<String> {
    table.remove(key)?.into_string().ok()
}

/// What a file holds, without the end of its line.
fn of_file(path: &str) -> anyhow::Result<String> {
    let bytes = fs::metadata(path)?.len();
    ensure!(bytes <= SECRET_BYTES_MAX, "it is longer than {SECRET_BYTES_MAX} bytes, too long for a secret");
    let mut text = fs::read_to_string(path)?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    ensure!(!text.is_empty(), "it is empty");
    Ok(text)
}
