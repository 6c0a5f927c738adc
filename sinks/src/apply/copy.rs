//! Writes rows whose keys are all new by COPY, which costs Postgres a third of what the upsert costs.
//!
//! COPY cannot handle conflicts. If a key exists or a row is refused, it fails as a whole: the transaction is rolled
//! back and repeated with the upsert, which can write every batch. So correctness does not depend on the guess that the
//! keys are new; a wrong guess only costs time. [`CopyGuess`] guesses from the results of earlier batches.
//!
//! If two processes write a key at the same time, the second waits for the first, then fails and uses the upsert.
//!
//! A shadow is filled in the same way. Its rows get the `id`s that the live table has for their keys ([`mod@ids`]).

use freshet_topics::columns::{Columns, Values};
use freshet_topics::{Domain, Provenance};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Encode, PgConnection, Postgres};

use super::upsert::{Candidate, LINEAGE, Upsert, filled_columns, quoted};
use super::written::{self, Written};
use super::{Applied, ids};
use crate::destination::Destination;

/// For fewer rows, the additional round trip costs more than COPY saves.
const ROWS_MIN: usize = 200;
/// After a failed COPY, some batches are written by the upsert: twice as many after each failure in a row, up to this
/// number.
const PAUSE_BATCHES_MAX: u32 = 128;

/// Decides whether to write a batch by COPY, from what one writer has seen.
///
/// | the last COPY | the next one |
/// |---|---|
/// | none yet, or it worked | at once |
/// | failed, after one that worked | a batch later |
/// | failed again | two, four, … batches later, [`PAUSE_BATCHES_MAX`] at most |
#[derive(Debug, Clone, Default)]
pub struct CopyGuess {
    /// Batches to skip after the next failure.
    pause: u32,
    /// Batches still to skip.
    left_out: u32,
}

impl CopyGuess {
    /// Whether to try COPY for a batch of this many rows. The attempt counts as failed until [`CopyGuess::tried`] is
    /// called, so the upsert follows an attempt whose result stays unknown (a lost connection, a timeout).
    pub fn try_now(&mut self, upsert: &Upsert, rows: usize) -> bool {
        if rows < ROWS_MIN || upsert.destination() == Destination::Correction {
            return false;
        }
        if self.left_out > 0 {
            self.left_out -= 1;
            return false;
        }
        (self.pause, self.left_out) = ((2 * self.pause).clamp(1, PAUSE_BATCHES_MAX), self.pause.max(1));
        true
    }

    /// Records the result of a batch for which [`CopyGuess::try_now`] gave `by_copy`.
    pub fn tried(&mut self, by_copy: bool, applied: &Applied) {
        // Where nothing was left to write, nothing speaks against it.
        if by_copy && (applied.by_copy || applied.offered == 0) {
            self.worked();
        }
    }

    fn worked(&mut self) {
        (self.pause, self.left_out) = (0, 0);
    }
}

/// Whether COPY would store the same as the upsert in the table as it is now: the live one, or its shadow. The columns
/// must have the types of the contract, so that the same text is the same value. No trigger, rule or row security may
/// change what is stored. The key must be unique; otherwise an existing row would be stored twice.
///
/// # Errors
/// If Postgres does not answer.
pub async fn is_fit(
    connection: &mut PgConnection,
    domain: &Domain,
    destination: Destination,
) -> Result<bool, sqlx::Error> {
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
    .bind(destination.table(domain))
    .bind(names)
    .bind(types)
    .bind(domain.key)
    .fetch_one(connection)
    .await
    .map(|is_fit: Option<bool>| is_fit == Some(true))
}

/// Writes rows that are sorted by key, one for each key. No key may be in the table yet. `None` if the table is not fit
/// for COPY.
///
/// # Errors
/// Any error of Postgres. A database error may be caused by the rows or by the wrong guess; the transaction cannot be
/// used any more.
pub(crate) async fn write(
    connection: &mut PgConnection,
    upsert: &Upsert,
    rows: &[Candidate<'_>],
) -> Result<Option<Vec<Written>>, sqlx::Error> {
    let domain = upsert.domain();
    if !is_fit(connection, domain, upsert.destination()).await? {
        return Ok(None);
    }
    let mut ids = None;
    if let Some(sql) = upsert.ids().sql(domain) {
        ids = ids::of_rows(connection, domain, sql, rows).await?;
        if ids.is_none() {
            return Ok(None);
        }
    }
    let data = encoded(domain, rows, ids.as_deref()).map_err(sqlx::Error::Encode)?;
    let table = upsert.destination().table(domain);
    let id = if ids.is_some() { "id, " } else { "" };
    let (columns, lineage) = (quoted(filled_columns(domain), ""), LINEAGE.join(", "));
    let statement = format!("COPY {table} ({id}{columns}, {lineage}, value_ord) FROM STDIN (FORMAT binary)");
    let mut copy = connection.copy_in_raw(&statement).await?;
    if let Err(error) = copy.send(data).await {
        copy.abort("a row could not be sent").await?;
        return Err(error);
    }
    let copied = copy.finish().await?;
    Ok((copied == rows.len() as u64).then(|| written::of(domain, rows)))
}

/// The start of the binary data: a signature, no flags and no further header
/// (<https://www.postgresql.org/docs/current/sql-copy.html>, “Binary Format”).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The end of the data, in place of a number of fields.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// The length of a NULL.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
/// The version of `jsonb` in the binary format; its text follows.
const JSONB_VERSION: u8 = 1;

/// The rows in the binary format of COPY, which Postgres reads without parsing, each with its id in front, if there are
/// any. The table's columns have the types of the contract ([`is_fit`]).
fn encoded(domain: &Domain, rows: &[Candidate<'_>], ids: Option<&[i64]>) -> Result<Vec<u8>, BoxDynError> {
    let Some(columns) = rows.first().map(Candidate::columns) else { return Ok(Vec::new()) };
    let filled = filled_columns(domain).count();
    let fields = usize::from(ids.is_some()) + filled + LINEAGE.len() + 1;
    let mut data = Data::default();
    data.0.reserve(rows.len() * (2 + 12 * fields));
    data.0.extend_from_slice(HEADER);
    for (at, row) in rows.iter().enumerate() {
        // A table has at most 1,600 columns.
        data.0.extend_from_slice(&(fields as i16).to_be_bytes());
        if let Some(ids) = ids {
            data.field(Some(ids[at]))?;
        }
        for column in 0..filled {
            let is_json = column >= domain.columns.len();
            data.cell(columns, column, row.place(), is_json)?;
        }
        let Provenance { object, generation, row, src_ord, .. } = *row.provenance();
        data.field(Some(object))?;
        data.field(Some(generation))?;
        data.field(Some(row))?;
        data.field(Some(src_ord))?;
        data.field(Some(src_ord))?;
    }
    data.0.extend_from_slice(&TRAILER);
    Ok(std::mem::take(&mut *data.0))
}

/// Binary data of COPY.
#[derive(Default)]
struct Data(PgArgumentBuffer);

impl Data {
    /// One cell of a batch.
    fn cell(&mut self, columns: &Columns, column: usize, row: usize, is_json: bool) -> Result<(), BoxDynError> {
        let (values, text) = columns.values(column);
        match values {
            Values::Int(cells) => self.field(cells[row]),
            Values::BigInt(cells) => self.field(cells[row]),
            Values::Double(cells) => self.field(cells[row]),
            Values::Numeric(cells) => self.field(cells[row]),
            Values::Bool(cells) => self.field(cells[row]),
            Values::Date(cells) => self.field(cells[row]),
            Values::Timestamp(cells) => self.field(cells[row]),
            Values::Text(cells) => self.sized(|buffer| {
                let Some(span) = cells[row] else { return Ok(IsNull::Yes) };
                buffer.extend(is_json.then_some(JSONB_VERSION));
                text.get(span).encode_by_ref(buffer)
            }),
        }
    }

    /// One value, encoded by sqlx.
    fn field<'q, T: Encode<'q, Postgres>>(&mut self, value: Option<T>) -> Result<(), BoxDynError> {
        self.sized(|buffer| value.map_or(Ok(IsNull::Yes), |value| value.encode(buffer)))
    }

    /// Writes something with its length in front.
    fn sized(
        &mut self,
        write: impl FnOnce(&mut PgArgumentBuffer) -> Result<IsNull, BoxDynError>,
    ) -> Result<(), BoxDynError> {
        let length_at = self.0.len();
        self.0.extend_from_slice(&NULL);
        let start = self.0.len();
        if let IsNull::No = write(&mut self.0)? {
            let length = i32::try_from(self.0.len() - start)?;
            self.0[length_at..start].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_copy_that_failed_the_next_one_comes_later_and_later() {
        let upsert = Upsert::new(freshet_topics::DOMAINS[0], Destination::Live);
        let mut guess = CopyGuess::default();
        let mut begun = Vec::new();
        for batch in 0..300 {
            if guess.try_now(&upsert, ROWS_MIN) {
                begun.push(batch);
            }
        }
        assert_eq!(begun, [0, 2, 4, 7, 12, 21, 38, 71, 136, 265]);
        guess.worked();
        assert!(guess.try_now(&upsert, ROWS_MIN), "at once after one that worked");
        assert!(!guess.try_now(&upsert, ROWS_MIN), "and a batch later after the first that failed");
        assert!(guess.try_now(&upsert, ROWS_MIN));
        let mut fresh = CopyGuess::default();
        assert!(!fresh.try_now(&upsert, ROWS_MIN - 1), "too few");
        let correction = Upsert::new(freshet_topics::DOMAINS[0], Destination::Correction);
        assert!(!fresh.try_now(&correction, ROWS_MIN), "its rows are in the table");
        assert!(fresh.try_now(&upsert, ROWS_MIN), "neither was one that failed");
        let shadow = Upsert::new(freshet_topics::DOMAINS[0], Destination::Shadow);
        assert!(CopyGuess::default().try_now(&shadow, ROWS_MIN));
    }
}
