//! Bytes to rows: the same bytes give the same records, lines and positions, however they are cut into chunks
//! and wherever a reading resumes, in bounded memory.
//!
//! The grammar is `csv-core`'s: comma, double quote, `""` for a quote within quotes, records ended by LF, CRLF
//! or a lone CR; text after a closing quote belongs to the field, and a quote within an unquoted field is text.
//! What it leaves open is done here:
//!
//! - *Exact places.* Line ends before a record are consumed here, and a record ended by CR is held until the
//!   next byte shows whether an LF belongs to it. So a record's line, and the [`Position`] after it, do not
//!   depend on the chunks.
//! - *Bounds.* A field, a record and the number of fields are limited; `csv-core` is given just the room up to
//!   the nearest limit, so that a file over one fails at the same byte each time.
//! - *Faults of the file.* A NUL byte, invalid UTF-8 and an unclosed quote end the reading: after an `Err` the
//!   framer is of no further use.
//! - *Speed.* A line without a quote that lies whole in the input is split at its commas, and never reaches
//!   `csv-core`. That is the same grammar, since only a quote gives a comma or a line end another meaning.

use memchr::{memchr, memchr_iter, memchr2_iter, memchr3};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Bounds on what one record may take. Counted in bytes of cell text, without quotes, commas and line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Text of a record, in bytes. Default 1 MiB: a message must fit a Kafka batch.
    pub record_bytes_max: usize,
    /// Fields of a record. Default 1024.
    pub fields_max: usize,
    /// Text of a field, in bytes. Default 256 KiB: an unclosed quote is noticed after this much.
    pub field_bytes_max: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        FrameLimits { record_bytes_max: 1 << 20, fields_max: 1024, field_bytes_max: 256 << 10 }
    }
}

/// A record boundary, from which a later reading can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Bytes before the boundary, after decompression, a BOM included.
    pub byte: u64,
    /// Line at the boundary, from 1.
    pub line: u64,
    /// Data rows before the boundary; the header is none.
    pub row: i64,
}

impl Default for Position {
    /// The start of a file.
    fn default() -> Self {
        Position { byte: 0, line: 1, row: 0 }
    }
}

/// Why a file cannot be framed. All are faults of the file; the text is its reject reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FrameError {
    #[error("line {line}: a NUL byte, so this is not UTF-8 text (it may be UTF-16 or binary)")]
    NulByte { line: u64 },
    #[error("line {line}: invalid UTF-8; save the file as UTF-8")]
    InvalidUtf8 { line: u64 },
    #[error("line {line}: a quote opened here is never closed")]
    UnclosedQuote { line: u64 },
    #[error("line {line}: a field that starts here is longer than {limit} bytes; a quote may be left open")]
    FieldTooLong { line: u64, limit: usize },
    #[error("line {line}: the record is longer than {limit} bytes")]
    RecordTooLong { line: u64, limit: usize },
    #[error("line {line}: the record has more than {limit} fields")]
    TooManyFields { line: u64, limit: usize },
}

/// One record, borrowed from its [`Framer`].
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    text: &'a str,
    ends: &'a [usize],
    gap: usize,
    line: u64,
    row: Option<i64>,
}

impl<'a> Record<'a> {
    /// The line on which the record starts, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The data row, from 0; `None` for the header.
    pub fn row(&self) -> Option<i64> {
        self.row
    }

    /// How many cells the record has; at least 1.
    #[allow(clippy::len_without_is_empty, reason = "a record without cells is a blank line, and skipped")]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text of cell `index`, unquoted; `None` beyond the last.
    pub fn get(&self, index: usize) -> Option<&'a str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] + self.gap };
        Some(&self.text[start..end])
    }

    /// The cells in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let record = *self;
        (0..record.len()).filter_map(move |index| record.get(index))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Start of file; so many bytes of a BOM have been seen, and not yet counted.
    Bom(usize),
    /// At a boundary or among blank lines; whether the last byte was a CR, so that an LF is no line of its own.
    Between { after_cr: bool },
    /// Within a record that `csv-core` reads.
    Inside,
    /// The record is complete but for the LF that may belong to its CR.
    AfterCr,
}

/// Cuts bytes into records.
pub struct Framer {
    limits: FrameLimits,
    csv: csv_core::Reader,
    /// The text of the record under way: `text_len` bytes of it, the rest is room.
    text: Vec<u8>,
    text_len: usize,
    /// Where its fields end in `text`: `ends_len` of them. Between two fields lie `gap` bytes.
    ends: Vec<usize>,
    ends_len: usize,
    gap: usize,
    /// Bytes the record took in the file, its line end not counted.
    raw_len: usize,
    state: State,
    /// How far the input is consumed.
    byte: u64,
    line: u64,
    record_line: u64,
    /// The row of the next record; `None` while that is the header.
    row_next: Option<i64>,
    boundary: Position,
}

impl Framer {
    /// At the start of a file: a BOM is skipped, and the first record is the header.
    pub fn new(limits: FrameLimits) -> Self {
        Framer::at(limits, Position::default(), State::Bom(0), None)
    }

    /// At a record boundary of a former reading of the same bytes, after its header: the next byte given is
    /// `at.byte`, the next record is data row `at.row`.
    pub fn resume(limits: FrameLimits, at: Position) -> Self {
        Framer::at(limits, at, State::Between { after_cr: false }, Some(at.row))
    }

    fn at(limits: FrameLimits, at: Position, state: State, row_next: Option<i64>) -> Self {
        assert!(limits.record_bytes_max > 0 && limits.fields_max > 0 && limits.field_bytes_max > 0);
        let mut csv = csv_core::Reader::new();
        // It would strip a BOM from its first bytes, which are seldom the file's.
        csv.read_record(&[], &mut [], &mut []);
        Framer {
            limits,
            csv,
            text: vec![0; 4096],
            text_len: 0,
            ends: vec![0; limits.fields_max + 1],
            ends_len: 0,
            gap: 0,
            raw_len: 0,
            state,
            byte: at.byte,
            line: at.line,
            record_line: at.line,
            row_next,
            boundary: at,
        }
    }

    /// The next record, taking bytes from the front of `input`; `None`: all of it is consumed, give more, or
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// The file's fault; the reading is over.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Record<'a>>, FrameError> {
        if let State::Bom(seen) = self.state {
            self.skip_bom(seen, input)?;
            if let State::Bom(_) = self.state {
                return Ok(None);
            }
        }
        while self.complete(input)? {
            if !self.is_blank() {
                return self.emit().map(Some);
            }
        }
        Ok(None)
    }

    /// The last record, where the file does not end in a line end. Call it once, at the end of the file.
    ///
    /// # Errors
    /// The file's fault; among them a quote that is still open.
    pub fn finish(&mut self) -> Result<Option<Record<'_>>, FrameError> {
        if let State::Bom(seen) = self.state {
            self.end_bom(seen)?;
        }
        match self.state {
            State::Bom(_) | State::Between { .. } => return Ok(None),
            State::AfterCr => self.state = State::Between { after_cr: true },
            State::Inside => self.end_last_line()?,
        }
        if self.is_blank() { Ok(None) } else { self.emit().map(Some) }
    }

    /// The boundary after the last record returned, its line end included.
    pub fn position(&self) -> Position {
        self.boundary
    }

    fn skip_bom(&mut self, mut seen: usize, input: &mut &[u8]) -> Result<(), FrameError> {
        while seen < BOM.len() {
            match input.split_first() {
                None => {
                    self.state = State::Bom(seen);
                    return Ok(());
                }
                Some((&byte, rest)) if byte == BOM[seen] => {
                    *input = rest;
                    seen += 1;
                }
                Some(_) => break,
            }
        }
        self.end_bom(seen)
    }

    /// A whole BOM is counted and forgotten; what merely began like one is text.
    fn end_bom(&mut self, seen: usize) -> Result<(), FrameError> {
        self.state = State::Between { after_cr: false };
        if seen == BOM.len() {
            self.byte += seen as u64;
            return Ok(());
        }
        let complete = self.complete(&mut &BOM[..seen])?;
        debug_assert!(!complete, "there is no line end in it");
        Ok(())
    }

    /// Goes on until a record is complete (true) or the input is consumed (false).
    fn complete(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        loop {
            match self.state {
                State::AfterCr => {
                    let Some(&byte) = input.first() else { return Ok(false) };
                    if byte == b'\n' {
                        self.consume(input, 1);
                    }
                    self.state = State::Between { after_cr: false };
                    return Ok(true);
                }
                State::Bom(_) | State::Between { .. } => {
                    self.skip_line_ends(input);
                    if input.is_empty() {
                        return Ok(false);
                    }
                    (self.text_len, self.ends_len, self.raw_len) = (0, 0, 0);
                    self.record_line = self.line;
                    if !self.take_plain_line(input) {
                        self.gap = 0;
                        self.state = State::Inside;
                    }
                }
                State::Inside => {
                    if !self.read_csv(input)? {
                        return Ok(false);
                    }
                }
            }
            // Either step may have brought a whole record, ended by an LF.
            if let State::Between { .. } = self.state {
                return Ok(true);
            }
        }
    }

    fn consume(&mut self, input: &mut &[u8], count: usize) {
        *input = &input[count..];
        self.byte += count as u64;
    }

    fn skip_line_ends(&mut self, input: &mut &[u8]) {
        let mut after_cr = self.state == State::Between { after_cr: true };
        let mut count = 0;
        for byte in *input {
            match byte {
                b'\n' if after_cr => after_cr = false,
                b'\n' => self.line += 1,
                b'\r' => {
                    self.line += 1;
                    after_cr = true;
                }
                _ => {
                    after_cr = false;
                    break;
                }
            }
            count += 1;
        }
        self.consume(input, count);
        self.state = State::Between { after_cr };
    }

    /// Takes one whole line without quotes, if that is what comes next and no limit is near.
    fn take_plain_line(&mut self, input: &mut &[u8]) -> bool {
        let Some(end) = memchr3(b'\n', b'\r', b'"', input) else { return false };
        let bytes_max = self.limits.field_bytes_max.min(self.limits.record_bytes_max);
        if input[end] == b'"' || end > bytes_max {
            return false;
        }
        let mut fields = 0;
        for comma in memchr_iter(b',', &input[..end]) {
            if fields + 1 == self.limits.fields_max {
                return false;
            }
            self.ends[fields] = comma;
            fields += 1;
        }
        self.ends[fields] = end;
        self.ends_len = fields + 1;
        self.gap = 1;
        self.make_room(end);
        self.text[..end].copy_from_slice(&input[..end]);
        (self.text_len, self.raw_len) = (end, end);
        self.end_record(input[end]);
        self.consume(input, end + 1);
        true
    }

    /// Feeds `csv-core`; whether the record came to its end (of which an LF after a CR may be outstanding).
    fn read_csv(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        while !input.is_empty() {
            let room = (self.field_start() + self.limits.field_bytes_max).min(self.limits.record_bytes_max) + 1;
            let room = room.min(self.text_len + input.len());
            self.make_room(room);
            let (result, read, written, ended) =
                self.csv.read_record(input, &mut self.text[self.text_len..room], &mut self.ends[self.ends_len..]);
            self.text_len += written;
            self.ends_len += ended;
            let is_record = result == csv_core::ReadRecordResult::Record;
            self.raw_len += read - usize::from(is_record);
            self.check_limits()?;
            if is_record {
                self.line += self.lines_before(self.text_len);
                self.end_record(input[read - 1]);
            }
            self.consume(input, read);
            if is_record {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn end_record(&mut self, line_end: u8) {
        self.line += 1;
        self.state = if line_end == b'\r' { State::AfterCr } else { State::Between { after_cr: false } };
    }

    /// At the end of the file within a record: a line end completes it, unless it is text of an open quote.
    fn end_last_line(&mut self) -> Result<(), FrameError> {
        let byte = self.byte;
        let field_line = self.record_line + self.lines_before(self.field_start());
        if !self.read_csv(&mut b"\n".as_slice())? {
            return Err(self.nul_byte().unwrap_or(FrameError::UnclosedQuote { line: field_line }));
        }
        // That line end is not in the file.
        self.byte = byte;
        self.line -= 1;
        Ok(())
    }

    fn make_room(&mut self, len: usize) {
        if self.text.len() < len {
            self.text.resize(len.next_power_of_two(), 0);
        }
    }

    /// Where the field under way starts in `text`.
    fn field_start(&self) -> usize {
        self.ends[..self.ends_len].last().map_or(0, |end| end + self.gap)
    }

    fn check_limits(&self) -> Result<(), FrameError> {
        let FrameLimits { record_bytes_max, fields_max, field_bytes_max } = self.limits;
        let line = self.record_line;
        let error = if self.text_len.saturating_sub(self.field_start()) > field_bytes_max {
            let line = line + self.lines_before(self.field_start());
            FrameError::FieldTooLong { line, limit: field_bytes_max }
        } else if self.text_len > record_bytes_max {
            FrameError::RecordTooLong { line, limit: record_bytes_max }
        } else if self.ends_len > fields_max {
            FrameError::TooManyFields { line, limit: fields_max }
        } else {
            return Ok(());
        };
        // A binary file is likely to be over a limit too; say what it is.
        Err(self.nul_byte().unwrap_or(error))
    }

    fn nul_byte(&self) -> Option<FrameError> {
        let at = memchr(0, &self.text[..self.text_len])?;
        Some(FrameError::NulByte { line: self.record_line + self.lines_before(at) })
    }

    fn invalid_utf8(&self) -> FrameError {
        let mut start = 0;
        for &end in &self.ends[..self.ends_len] {
            if let Err(error) = std::str::from_utf8(&self.text[start..end]) {
                start += error.valid_up_to();
                break;
            }
            start = end + self.gap;
        }
        FrameError::InvalidUtf8 { line: self.record_line + self.lines_before(start) }
    }

    /// Line ends within the first `len` bytes of the record's text, all of them quoted. CR and LF are one only
    /// within one field.
    fn lines_before(&self, len: usize) -> u64 {
        let text = &self.text[..len];
        let is_pair =
            |at: usize| at > 0 && text[at - 1] == b'\r' && self.ends[..self.ends_len].binary_search(&at).is_err();
        memchr2_iter(b'\n', b'\r', text).filter(|&at| text[at] == b'\r' || !is_pair(at)).count() as u64
    }

    /// A line of blanks alone; `""` is not one, but a record of one empty cell.
    fn is_blank(&self) -> bool {
        self.ends_len == 1
            && self.raw_len == self.text_len
            && self.text[..self.text_len].iter().all(|byte| (1..=b' ').contains(byte))
    }

    fn emit(&mut self) -> Result<Record<'_>, FrameError> {
        if let Some(error) = self.nul_byte() {
            return Err(error);
        }
        let ends = &self.ends[..self.ends_len];
        let Ok(text) = std::str::from_utf8(&self.text[..self.text_len]) else { return Err(self.invalid_utf8()) };
        // Halves of a character in two neighbouring fields are valid only where they are joined.
        if self.gap == 0 && !ends.iter().all(|&end| text.is_char_boundary(end)) {
            return Err(self.invalid_utf8());
        }
        let row = self.row_next;
        let row_after = row.map_or(0, |row| row + 1);
        self.row_next = Some(row_after);
        self.boundary = Position { byte: self.byte, line: self.line, row: row_after };
        Ok(Record { text, ends, gap: self.gap, line: self.record_line, row })
    }
}

#[cfg(test)]
mod tests;
