//! Reads a file from disk as a listener would read it from the bucket: inflated, decoded, checked as a whole, framed
//! into rows. Nothing is published, and no service is used.

use std::path::Path;

use freshet_topics::{Domain, RawRow};

use crate::check::{Checked, Checker};
use crate::frame::Framer;
use crate::header::Header;
use crate::header::names::shown;
use crate::object::{ObjectBody, ReadError};
use crate::settings::IngestSettings;

/// The facts about a file that is not rejected as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Its rows.
    pub rows: i64,
    /// Columns of its header that the domain does not have: the first ones, and how many more.
    pub unknown_columns: Vec<String>,
    /// Columns that it lacks and that get the contract's default in its rows.
    pub absent_defaults: Vec<String>,
    /// Rows whose key comes again further down in the file.
    pub overtaken: i64,
}

/// Why there are no rows to inspect.
#[derive(Debug, thiserror::Error)]
pub enum NotInspected {
    /// The file would be rejected as a whole, for this reason.
    #[error("{0}")]
    Rejected(String),
    /// The file cannot be read from the disk.
    #[error("read {path}: {said}")]
    Unread {
        /// The file.
        path: String,
        /// The system's error.
        said: String,
    },
}

impl NotInspected {
    fn of(path: &Path, error: ReadError) -> Self {
        match error {
            ReadError::Rejected { reason, .. } => NotInspected::Rejected(reason.to_string()),
            ReadError::Transient { detail, .. } => {
                NotInspected::Unread { path: path.display().to_string(), said: detail }
            }
            error => NotInspected::Unread { path: path.display().to_string(), said: error.to_string() },
        }
    }
}

async fn open(domain: &Domain, settings: &IngestSettings, path: &Path) -> Result<ObjectBody, NotInspected> {
    let opened = ObjectBody::of_file(path, domain.encoding, settings.read_limits()).await;
    opened.map_err(|error| NotInspected::of(path, error))
}

/// Reads a file of a domain twice, as a listener does: it is checked as a whole, then `each` gets the line and the
/// cells of every row. `others` are the domains that it may belong to instead.
///
/// # Errors
/// [`NotInspected`].
pub async fn inspect(
    domain: &'static Domain,
    others: &[&'static Domain],
    settings: &IngestSettings,
    path: &Path,
    mut each: impl FnMut(u64, &RawRow<'_>),
) -> Result<Inspected, NotInspected> {
    let rejected = |error: &dyn std::fmt::Display| NotInspected::Rejected(error.to_string());
    let mut checker = Checker::new(domain, others, settings.frame_limits(), 0, 0);
    let mut body = open(domain, settings, path).await?;
    while let Some(piece) = body.chunk().await.map_err(|error| NotInspected::of(path, error))? {
        checker.feed(&piece).map_err(|error| rejected(&error))?;
    }
    let Checked { header, rows, content, .. } = checker.finish().map_err(|error| rejected(&error))?;

    let mut framer = Framer::new(settings.frame_limits(), domain.delimiter);
    let mut body = open(domain, settings, path).await?;
    while let Some(piece) = body.chunk().await.map_err(|error| NotInspected::of(path, error))? {
        let mut input = piece.as_ref();
        while let Some(record) = framer.next(&mut input).map_err(|error| rejected(&error))? {
            if record.row().is_some() {
                each(record.line(), &header.raw_row(&record));
            }
        }
    }
    while let Some(record) = framer.finish().map_err(|error| rejected(&error))? {
        if record.row().is_some() {
            each(record.line(), &header.raw_row(&record));
        }
    }
    let (unknown_columns, absent_defaults) = (content.ignored_columns, content.absent_defaults);
    Ok(Inspected { rows, unknown_columns, absent_defaults, overtaken: content.overtaken })
}

/// The domains whose files may have the header of this one, those with the fewest unknown columns.
///
/// # Errors
/// If the file cannot be read from the disk.
pub async fn fitting(
    domains: &[&'static Domain],
    settings: &IngestSettings,
    path: &Path,
) -> Result<Vec<&'static Domain>, NotInspected> {
    let mut found: Vec<(usize, &'static Domain)> = Vec::new();
    for domain in domains {
        match unknown_columns(domain, settings, path).await {
            Ok(Some(unknown)) => found.push((unknown, domain)),
            Ok(None) | Err(NotInspected::Rejected(_)) => {}
            Err(unread) => return Err(unread),
        }
    }
    let fewest = found.iter().map(|(unknown, _)| *unknown).min();
    Ok(found.into_iter().filter(|(unknown, _)| Some(*unknown) == fewest).map(|(_, domain)| domain).collect())
}

/// How many columns the file has besides the domain's; `None` if its header does not fit the domain.
async fn unknown_columns(
    domain: &'static Domain,
    settings: &IngestSettings,
    path: &Path,
) -> Result<Option<usize>, NotInspected> {
    let mut framer = Framer::new(settings.frame_limits(), domain.delimiter);
    let mut body = open(domain, settings, path).await?;
    while let Some(piece) = body.chunk().await.map_err(|error| NotInspected::of(path, error))? {
        match framer.next(&mut piece.as_ref()) {
            Ok(Some(record)) => {
                let header = Header::read(domain, &[], &record);
                return Ok(header.ok().map(|header| header.ignored_columns().len()));
            }
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// At most this many characters of a value on one line, with invisible ones escaped.
pub fn visible(text: &str, chars_max: usize) -> String {
    shown(text, chars_max)
}
