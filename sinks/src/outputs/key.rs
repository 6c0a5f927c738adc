//! The names of objects. The name of each manifest and data file contains the version that first needed it, so names
//! are never reused.

use chrono::NaiveDate;

/// The key of the pointer to the newest manifest.
pub const POINTER: &str = "metrics/current.json";
/// The prefix of all objects.
pub(super) const ROOT: &str = "metrics/";
/// The prefix of data files.
pub(super) const DATA_PREFIX: &str = "metrics/data/";
/// The prefix of manifests.
pub(super) const MANIFEST_PREFIX: &str = "metrics/manifests/";

/// The stable key of an output's whole-file copy.
pub fn copy_key(output: &str, format: &str) -> String {
    format!("{ROOT}{output}.{format}")
}

/// The key of a data file: its output and window, the version of the manifest that first names it, and 64 bits of the
/// hash of its bytes.
///
/// Two publishers that make the same version from the same rows write the same bytes under the same key; all others
/// write under different keys.
pub fn data_key(
    output: &str,
    window_kind: &str,
    window_start: NaiveDate,
    version: u64,
    sha256: &str,
    format: &str,
) -> String {
    let hash = sha256.get(..16).unwrap_or(sha256);
    format!("{DATA_PREFIX}{output}/{window_kind}-{window_start}-v{version}-{hash}.{format}")
}

/// The version of the manifest that first named a data file; 0 for a name without one, as in 0.1.
///
/// | key | version |
/// |---|---|
/// | `…/month-2025-08-01-v12-0123456789abcdef.csv` | 12 |
/// | `…/month-2025-08-01-0123456789abcdef.csv` | 0 |
pub(super) fn data_version(key: &str) -> u64 {
    let name = key.rsplit('/').next().unwrap_or(key);
    let mut parts = name.rsplit('-').skip(1);
    parts.next().and_then(|part| part.strip_prefix('v')).and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The key of a manifest.
pub(super) fn manifest_key(version: u64, sha256: &str) -> String {
    format!("{MANIFEST_PREFIX}{version:012}-{sha256}.json")
}

/// The version in a manifest's key; `None` for other keys.
pub(super) fn manifest_version(key: &str) -> Option<u64> {
    key.strip_prefix(MANIFEST_PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_version_back() {
        let start = NaiveDate::default();
        for version in [1, 42, u64::MAX] {
            for format in super::super::FORMATS {
                let key = data_key("window_metrics", "week", start, version, "0123456789abcdef0123", format);
                assert_eq!(data_version(&key), version, "{key}");
                assert!(key.ends_with(&format!("-0123456789abcdef.{format}")), "{key}");
            }
            assert_eq!(manifest_version(&manifest_key(version, "ab")), Some(version));
        }
        for old in ["metrics/data/window_metrics/week-2025-08-04-0123456789abcdef.csv", "metrics/data/x", "", "-"] {
            assert_eq!(data_version(old), 0, "{old}");
        }
        assert_eq!(manifest_version("metrics/manifests/readme.txt"), None);
    }
}
