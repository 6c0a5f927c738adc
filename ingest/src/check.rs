//! The first pass over a file: everything that rejects the file as a whole is found here, before a row of it
//! is published.

use freshet_sinks::ledger::Content;
use freshet_topics::judge::{self, Notes};
use freshet_topics::{Cell, Column, Domain, Otherwise, RawRow};
use sha2::{Digest, Sha256};

use crate::format::{START_BYTES, foreign};
use crate::frame::{FrameError, FrameLimits, Framer, Record};
use crate::header::names::shown;
use crate::header::{Header, HeaderError};
use crate::overtaken::{Overtaken, Overtaking};
use crate::producer::VALUE_BYTES_MAX;

/// The most characters shown of a value that rejects its file.
const VALUE_CHARS_MAX: usize = 60;
/// The most bytes that a byte of text can take in JSON (`\u0001`).
const JSON_BYTES_PER_BYTE: usize = 6;
/// The most bytes that a cell takes besides its text: column name, quotes, colon, comma. No column name is nearly this
/// long.
const JSON_BYTES_PER_CELL: usize = 80;

/// The most unknown columns of a file that the ledger names. A file may have a thousand.
const UNKNOWN_COLUMNS_MAX: usize = 100;

/// Why a file is rejected as a whole; the text is for its sender.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileReject {
    /// The file is in another format.
    #[error("{0}")]
    Foreign(&'static str),
    /// The bytes cannot be read as CSV.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The header does not fit the domain.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// A value for which the contract rejects the file.
    #[error(
        "line {line}: `{value}` in column {column} breaks the rule {rule}, for which the contract rejects the file"
    )]
    Rule {
        /// The line on which its row starts.
        line: u64,
        /// The column.
        column: &'static str,
        /// The value, shortened.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// A row too long for Kafka.
    #[error(
        "line {line}: as a message the row is longer than {VALUE_BYTES_MAX} bytes, which no setting raises: shorten its \
         cells"
    )]
    RowTooLong {
        /// The line on which it starts.
        line: u64,
    },
}

/// A file that passed.
pub(crate) struct Checked {
    pub(crate) header: Header,
    pub(crate) rows: i64,
    pub(crate) content: Content,
    /// All of the bytes, if the file is small enough to be kept.
    pub(crate) kept: Option<Vec<u8>>,
}

/// Checks a file piece by piece; the size of the pieces does not matter.
pub(crate) struct Checker {
    records: Records,
    framer: Framer,
    /// The first bytes, until there are enough to tell what the file is.
    start: Option<Vec<u8>>,
    hash: Sha256,
    kept: Option<Vec<u8>>,
    keep_bytes_max: usize,
}

impl Checker {
    /// Keeps the bytes of a file of at most `keep_bytes_max`, and allocates room for `expected_bytes` and the keys of
    /// their rows at the start.
    pub(crate) fn new(
        domain: &'static Domain,
        others: &[&'static Domain],
        limits: FrameLimits,
        keep_bytes_max: usize,
        expected_bytes: usize,
    ) -> Self {
        let fails = |column: &&Column| column.rules.iter().any(|rule| rule.otherwise == Otherwise::Fail);
        Checker {
            records: Records {
                domain,
                others: others.to_vec(),
                failing: domain.columns.iter().enumerate().filter(|(_, column)| fails(column)).collect(),
                header: None,
                overtaken: Overtaken::new(domain, expected_bytes),
            },
            framer: Framer::new(limits, domain.delimiter),
            start: Some(Vec::new()),
            hash: Sha256::new(),
            kept: (expected_bytes <= keep_bytes_max).then(|| Vec::with_capacity(expected_bytes)),
            keep_bytes_max,
        }
    }

    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), FileReject> {
        self.hash.update(piece);
        match &mut self.kept {
            Some(kept) if kept.len() + piece.len() <= self.keep_bytes_max => kept.extend_from_slice(piece),
            kept => *kept = None,
        }
        let Some(start) = &mut self.start else { return self.read(piece) };
        start.extend_from_slice(piece);
        if start.len() >= START_BYTES { self.read_start() } else { Ok(()) }
    }

    /// Looks at the first bytes, then parses them as rows.
    fn read_start(&mut self) -> Result<(), FileReject> {
        let Some(start) = self.start.take() else { return Ok(()) };
        if let Some(reason) = foreign(&start[..start.len().min(START_BYTES)]) {
            return Err(FileReject::Foreign(reason));
        }
        self.read(&start)
    }

    fn read(&mut self, piece: &[u8]) -> Result<(), FileReject> {
        let mut input = piece;
        while let Some(record) = self.framer.next(&mut input)? {
            self.records.take(&record)?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Checked, FileReject> {
        self.read_start()?;
        while let Some(record) = self.framer.finish()? {
            self.records.take(&record)?;
        }
        let Records { domain, header, overtaken, .. } = self.records;
        let header = header.ok_or(HeaderError::NoHeader)?;
        let content = Content {
            sha256: self.hash.finalize().to_vec(),
            ignored_columns: bounded(header.ignored_columns()),
            absent_defaults: absent_defaults(domain, &header),
            overtaken: overtaken.rows(),
        };
        Ok(Checked { header, rows: self.framer.position().row, content, kept: self.kept })
    }
}

/// The first names, and how many more there are.
fn bounded(names: &[String]) -> Vec<String> {
    let more = names.len().saturating_sub(UNKNOWN_COLUMNS_MAX);
    let more = (more > 0).then(|| format!("(and {more} more)"));
    names.iter().take(UNKNOWN_COLUMNS_MAX).cloned().chain(more).collect()
}

/// The columns that the file lacks and that get the contract's default in every row.
fn absent_defaults(domain: &Domain, header: &Header) -> Vec<String> {
    let absent = domain.columns_with_a_default().filter(|column| !header.has(domain.index_of(column.name)));
    absent.map(|column| column.name.to_owned()).collect()
}

/// The records of a file so far, and what is needed to check them.
struct Records {
    domain: &'static Domain,
    /// Other domains that its columns may belong to.
    others: Vec<&'static Domain>,
    /// Columns with a rule that rejects the file, with their index in the domain.
    failing: Vec<(usize, &'static Column)>,
    header: Option<Header>,
    overtaken: Overtaken,
}

impl Records {
    /// Takes the header, then row after row.
    fn take(&mut self, record: &Record<'_>) -> Result<(), FileReject> {
        let Some(header) = &self.header else {
            self.header = Some(Header::read(self.domain, &self.others, record)?);
            return Ok(());
        };
        check_rules(&self.failing, header, record)?;
        check_row(self.domain, header, record)?;
        self.overtaken.take(header, record);
        Ok(())
    }
}

/// Judges the cells of columns that may reject the file.
fn check_rules(failing: &[(usize, &'static Column)], header: &Header, record: &Record<'_>) -> Result<(), FileReject> {
    if failing.is_empty() {
        return Ok(());
    }
    let row = header.raw_row(record);
    for (at, column) in failing {
        let cell = &row.cells[*at];
        if let Err(refused) = judge::cell(column, cell, &mut Notes::default())
            && refused.whole_file
            && let Cell::Text(text) = cell
        {
            let value = match column.personal {
                true => "…".to_owned(),
                false => shown(text, VALUE_CHARS_MAX),
            };
            return Err(FileReject::Rule { line: record.line(), column: column.name, value, rule: refused.rule });
        }
    }
    Ok(())
}

/// Encodes a row only if it might be too long.
fn check_row(domain: &Domain, header: &Header, record: &Record<'_>) -> Result<(), FileReject> {
    let text = record.iter().map(str::len).sum::<usize>() + header.kept_bytes();
    if text * JSON_BYTES_PER_BYTE + record.len() * JSON_BYTES_PER_CELL <= VALUE_BYTES_MAX {
        return Ok(());
    }
    let row: RawRow<'_> = header.raw_row(record);
    let mut value = Vec::new();
    row.encode(domain, &mut value);
    match value.len() <= VALUE_BYTES_MAX {
        true => Ok(()),
        false => Err(FileReject::RowTooLong { line: record.line() }),
    }
}

/// Reads again what a resuming second pass needs from the part before: the header and, if rows overtake others, the
/// keys of the rows.
pub(crate) struct Earlier {
    domain: &'static Domain,
    others: Vec<&'static Domain>,
    framer: Framer,
    header: Option<Header>,
    overtaking: Option<Overtaking>,
    /// Rows before the resume point.
    rows: i64,
}

impl Earlier {
    /// `overtaken` is the number of overtaken rows that the first pass found.
    pub(crate) fn new(
        domain: &'static Domain,
        others: &[&'static Domain],
        limits: FrameLimits,
        overtaken: i64,
        rows: i64,
    ) -> Self {
        let (others, framer) = (others.to_vec(), Framer::new(limits, domain.delimiter));
        Earlier { domain, others, framer, header: None, overtaking: Overtaking::of(domain, overtaken), rows }
    }

    /// Takes the next bytes; returns whether they are enough.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) -> Result<bool, FileReject> {
        while !self.is_enough() {
            let Some(record) = self.framer.next(&mut piece)? else { return Ok(false) };
            match (&self.header, &mut self.overtaking) {
                (None, _) => self.header = Some(Header::read(self.domain, &self.others, &record)?),
                (Some(header), Some(overtaking)) => drop(overtaking.take(header, &record)),
                (Some(_), None) => {}
            }
        }
        Ok(true)
    }

    fn is_enough(&self) -> bool {
        self.header.is_some() && (self.overtaking.is_none() || self.framer.position().row >= self.rows)
    }

    /// The header, and the memory of keys for the rows to come.
    pub(crate) fn finish(self) -> Result<(Header, Option<Overtaking>), FileReject> {
        Ok((self.header.ok_or(HeaderError::NoHeader)?, self.overtaking))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_topics::pipeline::Pipeline;
    use freshet_topics::pipeline::examples::Examples;
    use freshet_topics::{DOMAINS, Rule};

    fn check(domain: &'static Domain, file: &[u8], cut: usize, keep: usize) -> Result<Checked, FileReject> {
        let mut checker = Checker::new(domain, freshet_topics::domains::all(), FrameLimits::default(), keep, 0);
        for piece in file.chunks(cut) {
            checker.feed(piece)?;
        }
        checker.finish()
    }

    fn examples(domain: &Domain) -> &'static Examples {
        Pipeline::shipped().examples.iter().find(|examples| examples.domain == domain).expect("tests of the domain")
    }

    /// The examples of a domain as a file.
    fn file(domain: &Domain) -> String {
        let names: Vec<&str> = domain.columns.iter().map(|column| column.name).collect();
        let rows = (examples(domain).rows.iter())
            .map(|example| example.cells.iter().map(|cell| format!("\"{cell}\"")).collect::<Vec<_>>().join(",") + "\n");
        names.join(",") + "\n" + &rows.collect::<String>()
    }

    #[test]
    fn a_file_is_the_same_however_it_is_cut() {
        for domain in DOMAINS {
            let file = file(domain);
            let whole = check(domain, file.as_bytes(), usize::MAX, usize::MAX).expect("a good file");
            assert_eq!(whole.rows, examples(domain).rows.len() as i64);
            assert_eq!(whole.kept.as_deref(), Some(file.as_bytes()));
            for cut in [1, 7, 64] {
                let pieces = check(domain, file.as_bytes(), cut, 10).expect("a good file");
                assert_eq!(pieces.content, whole.content);
                assert_eq!((pieces.rows, &pieces.header), (whole.rows, &whole.header));
                assert_eq!(pieces.kept, None, "longer than what may be kept");
            }
        }
    }

    #[test]
    fn what_a_file_has_beside_its_domain_and_what_it_lacks_is_kept_in_a_bounded_list() {
        let content =
            |domain: &'static Domain, file: &str| check(domain, file.as_bytes(), 64, 0).expect("a good file").content;
        let (locations, health) = (DOMAINS[0], DOMAINS[2]);
        let lacking = content(locations, "id,name,area,colour,\n1,Goa,2.5,red,\n");
        assert_eq!(lacking.ignored_columns, ["colour"]);
        assert_eq!(lacking.absent_defaults, ["type", "population"]);
        let whole = content(locations, "id,name,type,population,area\n");
        assert_eq!((whole.ignored_columns.len(), whole.absent_defaults.len()), (0, 0));
        // Columns that are NULL if absent, and columns of the key, overwrite nothing with a default.
        assert!(content(health, "location_id,date,dengue_cases\n").absent_defaults.is_empty());
        let many: String = (0..250).map(|number| format!(",new{number}")).collect();
        let many = content(locations, &format!("id,name{many}\n")).ignored_columns;
        assert_eq!((many.len(), many[99].as_str(), many[100].as_str()), (101, "new99", "(and 150 more)"));
    }

    #[test]
    fn a_rule_that_fails_rejects_the_file_before_a_row_is_published() {
        let locations = DOMAINS[0];
        let mut columns = locations.columns.to_vec();
        let population = locations.index_of("population");
        columns[population].rules = vec![Rule { otherwise: Otherwise::Fail, ..columns[population].rules[0] }].leak();
        let domain: &'static Domain = Box::leak(Box::new(Domain { columns: columns.leak(), ..*locations }));
        let good = "id,name,population\n1,Goa,5\n2,Assam,many\n";
        assert!(check(domain, good.as_bytes(), 7, 0).is_ok(), "a row that is rejected does not reject its file");
        let bad = format!("{good}3,Kerala,-7\n");
        let said = check(domain, bad.as_bytes(), 7, 0).err().expect("rejected").to_string();
        assert_eq!(
            said,
            "line 4: `-7` in column population breaks the rule negative, for which the contract rejects the file"
        );
        assert!(check(locations, bad.as_bytes(), 7, 0).is_ok());
    }

    #[test]
    fn a_file_without_a_header_line_does_not_show_personal_values_in_its_reason() {
        let locations = DOMAINS[0];
        let mut columns = locations.columns.to_vec();
        columns[locations.index_of("name")].personal = true;
        let domain: &'static Domain = Box::leak(Box::new(Domain { columns: columns.leak(), ..*locations }));
        let hidden = "unknown, not shown because the contract has personal columns";
        let cases = [
            ("7,Ann Smith,250000\n", format!("found: 3 {hidden}")),
            ("Population,Ann Smith,areas\n", format!("found: `Population`, `areas`, and 1 {hidden}; `areas` is not")),
            ("population,area\n", "found: `population`, `area`".to_owned()),
        ];
        for (file, expected) in cases {
            let said = check(domain, file.as_bytes(), 64, 0).err().expect(file).to_string();
            assert!(said.contains(&expected) && !said.contains("Ann"), "{said}");
        }
        let said = check(locations, b"7,Ann Smith,250000\n", 64, 0).err().expect("rejected").to_string();
        assert!(said.contains("found: `7`, `Ann Smith`, `250000`"), "{said}");
    }

    #[test]
    fn what_rejects_a_file_is_found_before_a_row_is_published() {
        let domain = DOMAINS[0];
        let good = file(domain);
        let long = "\u{1}".repeat(200_000);
        let cases = [
            (String::new(), "no header"),
            ("\n\n".into(), "no header"),
            (format!("\"{good}"), "line 1: a quote opens in the header here"),
            (format!("{good}a\0b\n"), "NUL"),
            (format!("{good}1,{long}\n"), "longer than 900000 bytes"),
        ];
        for (file, expected) in cases {
            let reject = check(domain, file.as_bytes(), 1 << 16, 0).err().expect(expected).to_string();
            assert!(reject.contains(expected), "{reject}");
        }
        assert!(check(domain, format!("{good}\"unclosed").as_bytes(), 9, 0).is_ok(), "that is one row's fault");
        assert!(check(domain, good.lines().next().expect("header").as_bytes(), 5, 0).is_ok_and(|file| file.rows == 0));
    }
}
