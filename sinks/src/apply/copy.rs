//! Rows whose keys are all new, written by COPY: a third of what the upsert costs Postgres.
//!
//! COPY knows no conflict. Where a key is in the table, or a row is refused, it fails as a whole, the transaction is given up
//! and begun anew with the upsert, which does for every batch. So nothing rests on the guess that rows are new; a wrong
//! one costs time. [`Copies`] guesses by what became of the batches before.
//!
//! Two at once that write a key: the second waits for the first, then fails and comes to the upsert.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use freshet_topics::columns::{Columns, Values};
use freshet_topics::{Domain, Value};
use sqlx::PgConnection;

use super::upsert::{Candidate, Changed, LINEAGE, Upsert, Written, filled_columns, quoted};
use crate::destination::Destination;

/// Fewer rows are not worth the further round trip.
const ROWS_MIN: usize = 200;
/// Batches that are written by the upsert after a COPY that failed: twice as many after each, up to these.
const PAUSE_BATCHES_MAX: u32 = 128;

/// Whether batches are to be written by COPY, as one writer has seen it.
///
/// | the last COPY | the next one |
/// |---|---|
/// | none yet, or it worked | at once |
/// | failed, after one that worked | a batch later |
/// | failed again | two, four, … batches later, [`PAUSE_BATCHES_MAX`] at most |
#[derive(Debug, Clone, Default)]
pub struct Copies {
    /// Batches to leave out after the next failure.
    pause: u32,
    /// Batches still to leave out.
    left_out: u32,
}

impl Copies {
    /// Whether to try a batch of so many rows. It counts as one that failed until it is said to have worked, so that one
    /// whose end nobody hears of (a lost connection, a timeout) is followed by the upsert.
    pub fn begin(&mut self, upsert: &Upsert, rows: usize) -> bool {
        if rows < ROWS_MIN || upsert.destination() != Destination::Live {
            return false;
        }
        if self.left_out > 0 {
            self.left_out -= 1;
            return false;
        }
        (self.pause, self.left_out) = ((2 * self.pause).clamp(1, PAUSE_BATCHES_MAX), self.pause.max(1));
        true
    }

    /// The one that was begun last has worked.
    pub fn worked(&mut self) {
        (self.pause, self.left_out) = (0, 0);
    }
}

/// Whether COPY stores in the table what the upsert would, as it is now: the columns have the types that the contract says, so
/// that the same text is the same value; nothing of others decides what is stored, no trigger, no rule, no row security;
/// and the key is kept unique, without which a row that is there would be there twice.
///
/// # Errors
/// If Postgres does not say.
pub async fn is_fit(connection: &mut PgConnection, domain: &Domain) -> Result<bool, sqlx::Error> {
    let own = domain.columns.iter().map(|column| (column.name, column.cast.sql_type()));
    let kept = domain.kept_columns().map(|(name, _)| (name, "jsonb".to_owned()));
    let (names, types): (Vec<&str>, Vec<String>) = own.chain(kept).unzip();
    sqlx::query_scalar(
        "SELECT count(*) = cardinality($2)
            AND NOT bool_or(c.relrowsecurity OR c.relhasrules)
            AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass($1) AND NOT t.tgisinternal)
            AND EXISTS (
                SELECT FROM pg_index i
                WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
                    AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = cardinality($4)
                    AND (SELECT bool_and(k.attname = ANY ($4) AND (k.attnotnull OR i.indnullsnotdistinct))
                         FROM pg_attribute k
                         WHERE k.attrelid = i.indrelid AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
            )
         FROM UNNEST($2::text[], $3::text[]) AS u (name, type)
         JOIN pg_attribute a ON a.attrelid = to_regclass($1) AND a.attname = u.name AND a.atttypid = u.type::regtype
         JOIN pg_class c ON c.oid = a.attrelid",
    )
    .bind(Destination::Live.table(domain))
    .bind(names)
    .bind(types)
    .bind(domain.key)
    .fetch_one(connection)
    .await
    .map(|is_fit: Option<bool>| is_fit == Some(true))
}

/// Writes rows that are sorted by key, one a key, of which none is in the table; `None` where the table is not fit for it, or a
/// value cannot be spelled.
///
/// # Errors
/// Whatever Postgres says. A database error may be the fault of the rows or of the guess; the transaction is spent.
pub(crate) async fn write(
    connection: &mut PgConnection,
    upsert: &Upsert,
    rows: &[Candidate<'_>],
) -> Result<Option<Vec<Written>>, sqlx::Error> {
    let domain = upsert.domain();
    if !is_fit(connection, domain).await? {
        return Ok(None);
    }
    let Some(text) = spelled(domain, rows) else { return Ok(None) };
    let table = upsert.destination().table(domain);
    let columns = quoted(filled_columns(domain), "");
    let statement = format!("COPY {table} ({columns}, {}, value_ord) FROM STDIN", LINEAGE.join(", "));
    let mut copy = connection.copy_in_raw(&statement).await?;
    if let Err(error) = copy.send(text).await {
        copy.abort("a row could not be sent").await?;
        return Err(error);
    }
    let copied = copy.finish().await?;
    Ok((copied == rows.len() as u64).then(|| written(domain, rows)))
}

/// All of them, as the upsert would answer.
fn written(domain: &Domain, rows: &[Candidate<'_>]) -> Vec<Written> {
    let mut found: BTreeMap<(i64, i32), Vec<&Candidate<'_>>> = BTreeMap::new();
    for row in rows {
        let provenance = row.provenance();
        found.entry((provenance.object, provenance.generation)).or_default().push(row);
    }
    let one = |((object, generation), rows): ((i64, i32), Vec<&Candidate<'_>>)| Written {
        object,
        generation,
        rows: rows.iter().map(|row| row.provenance().row).collect(),
        changed: changed(domain, &rows),
    };
    found.into_iter().map(one).collect()
}

fn changed(domain: &Domain, rows: &[&Candidate<'_>]) -> Changed {
    let Some(event_time) = &domain.event_time else {
        let key = domain.dimension_key();
        return Changed::Keys(rows.iter().map(|row| value(domain, row, key).to_string()).collect());
    };
    let is_observed = |row: &&&Candidate<'_>| {
        event_time.observed_when.is_none_or(|observed| value(domain, row, observed.column) == *observed.value)
    };
    let dates = rows.iter().filter(is_observed).filter_map(|row| match value(domain, row, event_time.date) {
        Value::Date(date) => Some(date),
        Value::Timestamp(at) => Some(at.date_naive()),
        _ => None,
    });
    Changed::Dates(dates.collect())
}

fn value<'b>(domain: &Domain, row: &Candidate<'b>, column: &str) -> Value<'b> {
    row.columns().get(domain.index_of(column), row.place())
}

/// The rows in the text format of COPY; `None` where a value has no text that Postgres would read as that value.
fn spelled(domain: &Domain, rows: &[Candidate<'_>]) -> Option<Vec<u8>> {
    let columns = rows.first().map(Candidate::columns)?;
    let filled = filled_columns(domain).count();
    let mut text = String::with_capacity(rows.len() * (filled + LINEAGE.len()) * 8);
    for row in rows {
        for column in 0..filled {
            spell(&mut text, columns, column, row.place())?;
            text.push('\t');
        }
        let of = row.provenance();
        writeln!(text, "{}\t{}\t{}\t{}\t{}", of.object, of.generation, of.row, of.src_ord, of.src_ord).ok()?;
    }
    Some(text.into_bytes())
}

fn spell(text: &mut String, columns: &Columns, column: usize, row: usize) -> Option<()> {
    let (values, all) = columns.values(column);
    match values {
        Values::Int(cells) => cell(text, cells[row], |text, value| write!(text, "{value}").ok()),
        Values::BigInt(cells) => cell(text, cells[row], |text, value| write!(text, "{value}").ok()),
        Values::Double(cells) => cell(text, cells[row], |text, value| write!(text, "{value}").ok()),
        Values::Numeric(cells) => cell(text, cells[row], |text, value| write!(text, "{value}").ok()),
        Values::Bool(cells) => cell(text, cells[row], |text, value| {
            text.push(if value { 't' } else { 'f' });
            Some(())
        }),
        Values::Date(cells) => cell(text, cells[row], spell_date),
        Values::Timestamp(cells) => cell(text, cells[row], spell_timestamp),
        Values::Text(cells) => cell(text, cells[row], |text, span| {
            escape(text, all.get(span));
            Some(())
        }),
    }
}

fn cell<T>(text: &mut String, value: Option<T>, spell: impl Fn(&mut String, T) -> Option<()>) -> Option<()> {
    match value {
        Some(value) => spell(text, value),
        None => {
            text.push_str("\\N");
            Some(())
        }
    }
}

/// Of four digits: others are spelled in ways that Postgres does not read.
fn has_ordinary_year(date: impl Datelike) -> bool {
    (1..=9999).contains(&date.year())
}

fn spell_date(text: &mut String, date: NaiveDate) -> Option<()> {
    if !has_ordinary_year(date) {
        return None;
    }
    let (year, month, day) = (date.year(), date.month(), date.day());
    write!(text, "{year:04}-{month:02}-{day:02}").ok()
}

fn spell_timestamp(text: &mut String, at: DateTime<Utc>) -> Option<()> {
    if !has_ordinary_year(at) {
        return None;
    }
    write!(text, "{}", at.format("%Y-%m-%d %H:%M:%S%.6f+00")).ok()
}

/// What ends a cell or a row, or escapes, is escaped.
fn escape(text: &mut String, cell: &str) {
    let mut rest = cell;
    while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\t' => "\\t",
            b'\n' => "\\n",
            _ => "\\r",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_copy_that_failed_the_next_one_comes_later_and_later() {
        let upsert = Upsert::new(freshet_topics::DOMAINS[0], Destination::Live);
        let mut copies = Copies::default();
        let mut begun = Vec::new();
        for batch in 0..300 {
            if copies.begin(&upsert, ROWS_MIN) {
                begun.push(batch);
            }
        }
        assert_eq!(begun, [0, 2, 4, 7, 12, 21, 38, 71, 136, 265]);
        copies.worked();
        assert!(copies.begin(&upsert, ROWS_MIN), "at once after one that worked");
        assert!(!copies.begin(&upsert, ROWS_MIN), "and a batch later after the first that failed");
        assert!(copies.begin(&upsert, ROWS_MIN));
        let mut fresh = Copies::default();
        assert!(!fresh.begin(&upsert, ROWS_MIN - 1), "too few");
        assert!(!fresh.begin(&Upsert::new(freshet_topics::DOMAINS[0], Destination::Shadow), ROWS_MIN));
        assert!(fresh.begin(&upsert, ROWS_MIN), "neither was one that failed");
    }

    #[test]
    fn text_is_spelled_so_that_copy_reads_it_back() {
        for (cell, expected) in [
            ("Goa", "Goa"),
            ("", ""),
            ("\\N", "\\\\N"),
            ("a\tb\nc\rd\\e", "a\\tb\\nc\\rd\\\\e"),
            ("\\.", "\\\\."),
            ("é😀", "é😀"),
        ] {
            let mut text = String::new();
            escape(&mut text, cell);
            assert_eq!(text, expected, "{cell:?}");
        }
    }

    #[test]
    fn dates_that_postgres_would_not_read_are_not_spelled() {
        let date = |year| NaiveDate::from_ymd_opt(year, 9, 5).expect("a date");
        let mut text = String::new();
        for year in [-1, 0, 10_000] {
            assert_eq!(spell_date(&mut text, date(year)), None, "{year}");
            assert_eq!(spell_timestamp(&mut text, date(year).and_hms_opt(1, 2, 3).expect("a time").and_utc()), None);
        }
        spell_date(&mut text, date(7)).expect("spelled");
        text.push(' ');
        spell_timestamp(&mut text, date(2025).and_hms_micro_opt(1, 2, 3, 45).expect("a time").and_utc())
            .expect("spelled");
        assert_eq!(text, "0007-09-05 2025-09-05 01:02:03.000045+00");
    }
}
