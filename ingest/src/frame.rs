//! Bytes to rows, in bounded memory: the same bytes give the same records, lines and positions, independent of chunk
//! sizes and of where a reading resumes.
//!
//! The grammar is RFC 4180's, with the contract's delimiter: double quotes, `""` for a quote within quotes, records
//! ended by LF, CRLF or a lone CR; a quote within an unquoted cell is text.
//!
//! - *Exact positions.* Line ends before a record are consumed here, and a record ended by CR is held until the next
//!   byte shows whether an LF belongs to it. So a record's line, and the [`Position`] after it, do not depend on the
//!   chunks.
//! - *Stray quotes.* If text follows a closing quote, or a quote is never closed, only the line on which it opened is
//!   lost: it is a record of its own ([`Record::stray_quote`]), and reading continues with the next line. The bytes
//!   read beyond that line are held for this, bounded like a record; they are not read again for each line ([`path`]).
//! - *Blank lines.* A line whose cells are all empty or blank, quoted or not, is not a record.
//! - *Bounds.* A cell, a record and the number of cells are limited; a file over a limit fails at the same byte each
//!   time.
//! - *Invalid files.* A NUL byte and invalid UTF-8 end the reading: after an `Err` the framer cannot be used any more.
//! - *Speed.* A line without quotes that lies completely in the input is split at its delimiters without copying.

mod path;
mod quotes;

use std::collections::VecDeque;

use memchr::{memchr, memchr_iter, memchr2, memchr2_iter, memchr3};

use self::path::{Lead, Path, Span};
use self::quotes::InCell;

const BOM: &[u8] = b"\xef\xbb\xbf";
/// The most bytes taken from the input at once when a record is read byte by byte.
const HOLD_BYTES_MAX: usize = 64 << 10;

/// Limits for one record, in bytes of cell text, without quotes, delimiters and line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Text of a record, in bytes. Default 1 MiB: a message must fit a Kafka batch.
    pub record_bytes_max: usize,
    /// Fields of a record. Default 1024.
    pub fields_max: usize,
    /// Text of a field, in bytes. Default 256 KiB: a quote that is still open after this much is a stray one.
    pub field_bytes_max: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        FrameLimits { record_bytes_max: 1 << 20, fields_max: 1024, field_bytes_max: 256 << 10 }
    }
}

/// A record boundary, at which a later reading can resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Bytes before the boundary, after decompression, including a BOM.
    pub byte: u64,
    /// Line at the boundary, from 1.
    pub line: u64,
    /// Data rows before the boundary, without the header.
    pub row: i64,
}

impl Default for Position {
    /// The start of a file.
    fn default() -> Self {
        Position { byte: 0, line: 1, row: 0 }
    }
}

/// Why a file cannot be framed. All are errors in the file; the text is its reject reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("line {line}: a NUL byte, so this is not UTF-8 text (it may be UTF-16 or binary)")]
    NulByte { line: u64 },
    #[error(
        "line {line}: invalid UTF-8, so this is probably Windows-1252: save the file as CSV UTF-8, or set `encoding` in the \
         contract"
    )]
    InvalidUtf8 { line: u64 },
    #[error("line {line}: a quote opens in the header here, and is never closed or has text after its end")]
    StrayQuote { line: u64 },
    #[error(
        "line {line}: a cell that starts here is longer than {limit} bytes: shorten it, or raise ingest.field_bytes_max"
    )]
    FieldTooLong { line: u64, limit: usize },
    #[error("line {line}: the row is longer than {limit} bytes: shorten it, or raise ingest.record_bytes_max")]
    RecordTooLong { line: u64, limit: usize },
    #[error("line {line}: the row has more than {limit} cells: remove some, or raise ingest.fields_max")]
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
    is_stray: bool,
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

    /// The original line (at most 64 KiB of it), if a quote that opens on it is never closed or has text after its end:
    /// such a record has no cells.
    pub fn stray_quote(&self) -> Option<&'a str> {
        self.is_stray.then_some(self.text)
    }

    /// The length of its text in bytes, all cells together.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// The number of cells: at least 1, or 0 for a record with a stray quote.
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
    /// At the start of the file, after this many bytes of a possible BOM, which are not counted yet.
    Bom(usize),
    /// At a boundary or among blank lines; whether the last byte was a CR, so that an LF does not start a new line.
    Between { after_cr: bool },
    /// In a record that is read byte by byte.
    Inside,
    /// After a stray quote, on the line on which it opened.
    Skipping,
    /// The record is complete except for an LF that may belong to its CR.
    AfterCr,
}

/// Cuts bytes into records.
pub struct Framer {
    limits: FrameLimits,
    delimiter: u8,
    /// Bytes of the input that may have to be read again; those before `at` are read. The current record begins at
    /// `start`.
    held: Vec<u8>,
    start: usize,
    at: usize,
    /// The text of the current record, and the ends of its cells in it. There are `gap` bytes between two cells.
    text: Vec<u8>,
    ends: Vec<usize>,
    gap: usize,
    cell: InCell,
    /// The part of the record before its text, if the text is from an earlier reading.
    lead: Lead,
    /// Where the quote of the current cell opened, as line and as byte, and the cell itself once it spans a line end.
    opened_line: u64,
    opened_byte: u64,
    span: Option<Span>,
    /// The quoted cells of the record that span a line end.
    spans: VecDeque<Span>,
    /// Up to here the text of the current record has no NUL.
    nul_checked: usize,
    /// The earlier reading that reached a limit, if there is one.
    path: Option<Box<Path>>,
    /// The line of the record's stray quote.
    stray_line: Option<u64>,
    state: State,
    /// How far the file has been read.
    byte: u64,
    line: u64,
    record_line: u64,
    /// The row of the next record; `None` while that is the header.
    row_next: Option<i64>,
    boundary: Position,
    looked: u64,
}

impl Framer {
    /// At the start of a file: a BOM is skipped, and the first record is the header.
    pub fn new(limits: FrameLimits, delimiter: u8) -> Self {
        Framer::at(limits, delimiter, Position::default(), State::Bom(0), None)
    }

    /// At a record boundary of an earlier reading of the same bytes, after its header: the next byte given is
    /// `at.byte`, the next record is data row `at.row`.
    pub fn resume(limits: FrameLimits, delimiter: u8, at: Position) -> Self {
        Framer::at(limits, delimiter, at, State::Between { after_cr: false }, Some(at.row))
    }

    fn at(limits: FrameLimits, delimiter: u8, at: Position, state: State, row_next: Option<i64>) -> Self {
        assert!(limits.record_bytes_max > 0 && limits.fields_max > 0 && limits.field_bytes_max > 0);
        Framer {
            limits,
            delimiter,
            held: Vec::new(),
            start: 0,
            at: 0,
            text: Vec::new(),
            ends: Vec::new(),
            gap: 0,
            cell: InCell::Start,
            lead: Lead::default(),
            opened_line: at.line,
            opened_byte: at.byte,
            span: None,
            spans: VecDeque::new(),
            nul_checked: 0,
            path: None,
            stray_line: None,
            state,
            byte: at.byte,
            line: at.line,
            record_line: at.line,
            row_next,
            boundary: at,
            looked: 0,
        }
    }

    /// The next record, taking bytes from the front of `input`; `None`: all of it is consumed, give more, or
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// The file is invalid; the reading is over.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Record<'a>>, FrameError> {
        if self.complete(input)? { self.emit().map(Some) } else { Ok(None) }
    }

    /// The next of the last records, at the end of the file; `None` after the last. There may be several if a quote is
    /// still open.
    ///
    /// # Errors
    /// The file is invalid; the reading is over.
    pub fn finish(&mut self) -> Result<Option<Record<'_>>, FrameError> {
        loop {
            if self.complete(&mut [].as_slice())? {
                return self.emit().map(Some);
            }
            match self.state {
                State::Bom(0) | State::Between { .. } => return Ok(None),
                State::Bom(seen) => {
                    self.end_bom(seen);
                    continue;
                }
                State::AfterCr | State::Skipping => self.state = State::Between { after_cr: false },
                State::Inside => self.end_of_file()?,
            }
            if !self.is_blank() {
                return self.emit().map(Some);
            }
        }
    }

    /// The boundary after the last record returned, including its line end.
    pub fn position(&self) -> Position {
        self.boundary
    }

    /// How many bytes were looked at so far, counting repetitions: a few times the bytes read, whatever the file
    /// contains.
    pub fn bytes_looked_at(&self) -> u64 {
        self.looked
    }

    /// Continues until a record is complete (true) or the input is consumed (false).
    fn complete(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        loop {
            let is_record = match self.state {
                State::Bom(seen) => match self.skip_bom(seen, input) {
                    true => false,
                    false => return Ok(false),
                },
                State::AfterCr => {
                    let Some(byte) = self.peek(input) else { return Ok(false) };
                    if byte == b'\n' {
                        self.consume(input, 1);
                    }
                    self.state = State::Between { after_cr: false };
                    true
                }
                State::Between { .. } => {
                    self.skip_line_ends(input);
                    if self.peek(input).is_none() {
                        return Ok(false);
                    }
                    self.begin_record();
                    self.take_plain_line(input)
                }
                State::Inside => {
                    self.read_held()?;
                    if self.state == State::Inside && !self.hold(input) {
                        return Ok(false);
                    }
                    matches!(self.state, State::Between { .. })
                }
                State::Skipping => match self.skip_line(input) {
                    true => matches!(self.state, State::Between { .. }),
                    false => return Ok(false),
                },
            };
            if is_record && matches!(self.state, State::Between { .. }) && !self.is_blank() {
                return Ok(true);
            }
        }
    }

    /// The next byte, from the held bytes or from the input.
    fn peek(&self, input: &[u8]) -> Option<u8> {
        self.held.get(self.at).or(input.first()).copied()
    }

    fn consume(&mut self, input: &mut &[u8], count: usize) {
        match self.at < self.held.len() {
            true => self.at += count,
            false => *input = &input[count..],
        }
        self.byte += count as u64;
        self.looked += count as u64;
    }

    /// Skips byte order marks; returns whether the next byte is known not to belong to one.
    fn skip_bom(&mut self, mut seen: usize, input: &mut &[u8]) -> bool {
        while let Some((&byte, rest)) = input.split_first() {
            if byte != BOM[seen] {
                self.end_bom(seen);
                return true;
            }
            *input = rest;
            seen += 1;
            if seen == BOM.len() {
                self.byte += seen as u64;
                seen = 0;
            }
        }
        self.state = State::Bom(seen);
        false
    }

    /// Bytes that only began like a byte order mark are text.
    fn end_bom(&mut self, seen: usize) {
        self.state = State::Between { after_cr: false };
        self.held.extend_from_slice(&BOM[..seen]);
    }

    fn skip_line_ends(&mut self, input: &mut &[u8]) {
        let mut after_cr = self.state == State::Between { after_cr: true };
        while let Some(byte) = self.peek(input) {
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
            self.consume(input, 1);
        }
        self.state = State::Between { after_cr };
    }

    fn begin_record(&mut self) {
        // Drops the bytes that were read: at once if that is all of them, else when they are more than half.
        if self.at * 2 >= self.held.len() {
            self.held.drain(..self.at);
            self.at = 0;
        }
        self.path.take_if(|path| path.byte <= self.byte);
        self.clear_record();
        self.stray_line = None;
        self.record_line = self.line;
    }

    fn clear_record(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.lead.clear();
        self.spans.clear();
        (self.span, self.nul_checked) = (None, 0);
    }

    /// Takes one whole line without quotes, if that comes next and no limit is near; else starts to read byte by byte.
    fn take_plain_line(&mut self, input: &mut &[u8]) -> bool {
        let bytes_max = self.limits.field_bytes_max.min(self.limits.record_bytes_max);
        let source = if self.at < self.held.len() { &self.held[self.at..] } else { *input };
        let source = &source[..source.len().min(bytes_max + 1)];
        let end = memchr3(b'\n', b'\r', b'"', source);
        self.looked += end.map_or(source.len(), |end| end + 1) as u64;
        let Some(end) = end.filter(|end| source[*end] != b'"') else { return self.begin_cells() };
        for delimiter in memchr_iter(self.delimiter, &source[..end]) {
            if self.ends.len() + 1 == self.limits.fields_max {
                return self.begin_cells();
            }
            self.ends.push(delimiter);
        }
        self.ends.push(end);
        self.gap = 1;
        self.text.extend_from_slice(&source[..end]);
        let line_end = source[end];
        self.end_record(line_end);
        self.consume(input, end + 1);
        true
    }

    fn begin_cells(&mut self) -> bool {
        self.ends.clear();
        (self.gap, self.start, self.cell, self.state) = (0, self.at, InCell::Start, State::Inside);
        false
    }

    /// Moves more of the input to the held bytes, at most to the end of a line; returns whether there is more.
    fn hold(&mut self, input: &mut &[u8]) -> bool {
        let window = &input[..input.len().min(HOLD_BYTES_MAX)];
        let end = memchr2(b'\n', b'\r', window).map_or(window.len(), |end| end + 1);
        self.looked += end as u64;
        self.held.extend_from_slice(&input[..end]);
        *input = &input[end..];
        end > 0
    }

    fn end_record(&mut self, line_end: u8) {
        self.line += 1;
        self.state = if line_end == b'\r' { State::AfterCr } else { State::Between { after_cr: false } };
    }

    fn nul_byte(&self) -> Option<FrameError> {
        let at = memchr(0, &self.text)?;
        Some(FrameError::NulByte { line: self.record_line + self.lines_before(at) })
    }

    fn invalid_utf8(&self) -> FrameError {
        let mut start = 0;
        for &end in &self.ends {
            if let Err(error) = std::str::from_utf8(&self.text[start..end]) {
                start += error.valid_up_to();
                break;
            }
            start = end + self.gap;
        }
        FrameError::InvalidUtf8 { line: self.record_line + self.lines_before(start) }
    }

    /// Line ends within the first `len` bytes of the record's text, all of them quoted. CR and LF count as one only
    /// within one cell.
    fn lines_before(&self, len: usize) -> u64 {
        let text = &self.text[..len];
        let is_pair = |at: usize| at > 0 && text[at - 1] == b'\r' && self.ends.binary_search(&at).is_err();
        memchr2_iter(b'\n', b'\r', text).filter(|&at| text[at] == b'\r' || !is_pair(at)).count() as u64
    }

    /// Whether all cells of the line are empty or blank. `""` is blank too, even if a file has a single column, since a
    /// row without a value is not a row.
    fn is_blank(&self) -> bool {
        let says_nothing = |byte: &u8| (1..=b' ').contains(byte) || (self.gap == 1 && *byte == self.delimiter);
        self.stray_line.is_none() && self.text.iter().all(says_nothing)
    }

    fn emit(&mut self) -> Result<Record<'_>, FrameError> {
        if let Some(error) = self.nul_byte() {
            return Err(error);
        }
        if let Some(line) = self.stray_line {
            return self.emit_stray(line);
        }
        let row = self.pass_boundary();
        let (ends, gap, line) = (&self.ends[..], self.gap, self.record_line);
        let Ok(text) = std::str::from_utf8(&self.text) else { return Err(self.invalid_utf8()) };
        // Halves of a character in two neighbouring cells are valid only if the cells are joined.
        if gap == 0 && !ends.iter().all(|&end| text.is_char_boundary(end)) {
            return Err(self.invalid_utf8());
        }
        Ok(Record { text, ends, gap, line, row, is_stray: false })
    }

    /// Ends the record here; returns its row.
    fn pass_boundary(&mut self) -> Option<i64> {
        let row = self.row_next;
        let row_after = row.map_or(0, |row| row + 1);
        self.row_next = Some(row_after);
        self.boundary = Position { byte: self.byte, line: self.line, row: row_after };
        row
    }
}

#[cfg(test)]
mod tests;
