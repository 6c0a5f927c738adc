//! Records that are read byte by byte: with quotes, near a limit, or cut by the end of the input.
//!
//! | in the cell | byte | then |
//! |---|---|---|
//! | at its start | `"` | quoted |
//! | | any other | plain |
//! | plain | delimiter or line end | the cell ends |
//! | quoted | `"` | after a quote |
//! | after a quote | `"` | a quote as text, quoted |
//! | | delimiter or line end | the cell ends |
//! | | a blank | text, after the end |
//! | | any other | stray |
//! | after the end | delimiter or line end | the cell ends |
//! | | a blank | text |
//! | | any other | stray |

use memchr::{memchr, memchr2, memchr2_iter, memchr3};

use super::path::Span;
use super::{FrameError, FrameLimits, Framer, Record, State};

/// The most bytes kept of a line with a stray quote: escaped, they fit into a message.
const STRAY_BYTES_MAX: usize = 64 << 10;

/// Position of the reading within a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InCell {
    /// Before its first byte.
    Start,
    /// In text without quotes around it.
    Plain,
    /// Between quotes.
    Quoted,
    /// After a quote that closes the cell, or is the first of two.
    AfterQuote,
    /// After the closing quote and a blank.
    AfterEnd,
}

/// A limit of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    FieldBytes,
    RecordBytes,
    Fields,
}

impl Framer {
    /// Reads the held bytes, until the record ends or all are read.
    pub(super) fn read_held(&mut self) -> Result<(), FrameError> {
        while self.state == State::Inside
            && let Some(&byte) = self.held.get(self.at)
        {
            let ends_cell = byte == self.delimiter || byte == b'\n' || byte == b'\r';
            match (self.cell, byte) {
                (InCell::Start, b'"') if self.join_path() => self.check_joined()?,
                (InCell::Start, b'"') => {
                    (self.cell, self.opened_line, self.opened_byte) = (InCell::Quoted, self.line, self.byte);
                    self.span = None;
                    self.pass(1);
                }
                (InCell::Start, _) => self.cell = InCell::Plain,
                (InCell::Plain, _) if !ends_cell => {
                    let rest = self.within_limits();
                    let count = memchr3(self.delimiter, b'\n', b'\r', rest).unwrap_or(rest.len());
                    self.push_text(count)?;
                }
                (InCell::Quoted, b'"') => {
                    self.cell = InCell::AfterQuote;
                    self.pass(1);
                }
                (InCell::Quoted, _) => {
                    let rest = self.within_limits();
                    let count = memchr(b'"', rest).unwrap_or(rest.len());
                    self.push_text(count)?;
                }
                (InCell::AfterQuote, b'"') => {
                    self.cell = InCell::Quoted;
                    self.push_text(1)?;
                }
                (InCell::AfterQuote | InCell::AfterEnd, b' ' | b'\t') if !ends_cell => {
                    self.cell = InCell::AfterEnd;
                    self.push_text(1)?;
                }
                (InCell::AfterQuote | InCell::AfterEnd, _) if !ends_cell => self.stray(self.opened_line, self.span),
                _ => self.end_cell(byte)?,
            }
        }
        Ok(())
    }

    fn pass(&mut self, count: usize) {
        self.at += count;
        self.byte += count as u64;
        self.looked += count as u64;
    }

    /// The held bytes that are not read yet, up to the first one over a byte limit.
    fn within_limits(&self) -> &[u8] {
        let FrameLimits { record_bytes_max, field_bytes_max, .. } = self.limits;
        let room =
            field_bytes_max.saturating_sub(self.cell_bytes()).min(record_bytes_max.saturating_sub(self.record_bytes()));
        let rest = &self.held[self.at..];
        &rest[..rest.len().min(room + 1)]
    }

    /// Takes this many bytes as text of the cell.
    fn push_text(&mut self, count: usize) -> Result<(), FrameError> {
        let from = self.at;
        self.text.extend_from_slice(&self.held[from..from + count]);
        if self.cell == InCell::Quoted {
            self.count_lines(from, from + count);
        }
        self.pass(count);
        self.check_bytes()
    }

    /// Checks the limits of the record including the text that it was joined to.
    fn check_joined(&mut self) -> Result<(), FrameError> {
        match self.record_cells() > self.limits.fields_max {
            true => self.over(Limit::Fields),
            false => self.check_bytes(),
        }
    }

    fn check_bytes(&mut self) -> Result<(), FrameError> {
        if self.cell_bytes() > self.limits.field_bytes_max {
            self.over(Limit::FieldBytes)
        } else if self.record_bytes() > self.limits.record_bytes_max {
            self.over(Limit::RecordBytes)
        } else {
            Ok(())
        }
    }

    /// Counts the line ends between two positions within quotes, and records the first of the cell.
    fn count_lines(&mut self, from: usize, to: usize) {
        let (mut lines, mut first) = (0, None);
        for at in memchr2_iter(b'\n', b'\r', &self.held[from..to]).map(|at| from + at) {
            // The quote itself is before the first byte.
            let is_second = self.held[at] == b'\n' && self.held[at - 1] == b'\r';
            lines += u64::from(!is_second);
            first.get_or_insert(at + 1);
        }
        self.line += lines;
        if let (None, Some(end)) = (self.span, first) {
            // All of it is in the text now.
            let cell_bytes = self.cell_bytes() - (to - end);
            let span = Span {
                line: self.opened_line,
                opened: self.opened_byte,
                end: self.byte + (end - from) as u64,
                cell_start: self.cell_start(),
                cell_bytes,
                cells: self.ends.len(),
            };
            self.span = Some(span);
            self.spans.push_back(span);
        }
    }

    /// Ends the cell at a delimiter or a line end.
    fn end_cell(&mut self, byte: u8) -> Result<(), FrameError> {
        self.end_text()?;
        if self.state != State::Inside {
            return Ok(());
        }
        self.pass(1);
        match byte == self.delimiter {
            true => self.cell = InCell::Start,
            false => {
                self.join_lead();
                self.end_record(byte);
            }
        }
        Ok(())
    }

    fn end_text(&mut self) -> Result<(), FrameError> {
        if self.record_cells() == self.limits.fields_max {
            return self.over(Limit::Fields);
        }
        self.ends.push(self.text.len());
        Ok(())
    }

    /// Handles a limit that was passed. A quoted cell that never ends is a stray quote; in a record over several lines,
    /// the first such cell is blamed.
    fn over(&mut self, limit: Limit) -> Result<(), FrameError> {
        // A binary file is likely to pass a limit too; then report that it is binary.
        if memchr(0, &self.text[self.nul_checked..]).is_some() {
            self.join_lead();
            return self.nul_byte().map_or(Ok(()), Err);
        }
        self.nul_checked = self.text.len();
        if limit == Limit::FieldBytes && self.cell == InCell::Quoted {
            self.stray(self.opened_line, self.span);
            return Ok(());
        }
        let Some(first) = self.spans.front().copied() else { return Err(self.too_much(limit)) };
        self.keep_path();
        self.stray(first.line, Some(first));
        Ok(())
    }

    fn too_much(&self, limit: Limit) -> FrameError {
        let FrameLimits { record_bytes_max, fields_max, field_bytes_max } = self.limits;
        let line = self.record_line;
        match limit {
            Limit::FieldBytes => {
                FrameError::FieldTooLong { line: line + self.lines_before(self.cell_start()), limit: field_bytes_max }
            }
            Limit::RecordBytes => FrameError::RecordTooLong { line, limit: record_bytes_max },
            Limit::Fields => FrameError::TooManyFields { line, limit: fields_max },
        }
    }

    /// Handles the end of the file within a record.
    pub(super) fn end_of_file(&mut self) -> Result<(), FrameError> {
        if self.cell == InCell::Quoted {
            self.stray(self.opened_line, self.span);
        } else {
            self.end_text()?;
            self.join_lead();
        }
        // No LF can follow a CR any more.
        self.state = State::Between { after_cr: false };
        Ok(())
    }

    /// Drops the line on which a quote opened, with what its record has before; goes back to the line after it.
    fn stray(&mut self, line: u64, span: Option<Span>) {
        self.stray_line = Some(line);
        self.clear_record();
        let Some(span) = span else {
            // The line is not complete yet.
            self.keep_stray(self.start, self.at);
            self.state = State::Skipping;
            return;
        };
        let mut end = self.at - (self.byte - span.end) as usize;
        let is_cr = self.held[end - 1] == b'\r';
        self.keep_stray(self.start, end - 1);
        self.state = State::Between { after_cr: false };
        match self.held.get(end) {
            Some(b'\n') if is_cr => end += 1,
            None if is_cr => self.state = State::AfterCr,
            _ => {}
        }
        self.byte -= (self.at - end) as u64;
        (self.at, self.line) = (end, line + 1);
    }

    fn keep_stray(&mut self, from: usize, to: usize) {
        let to = to.min(from + STRAY_BYTES_MAX.saturating_sub(self.text.len()));
        self.text.extend_from_slice(&self.held[from..to]);
    }

    /// Skips the rest of the line of a stray quote; returns whether its end was found.
    pub(super) fn skip_line(&mut self, input: &mut &[u8]) -> bool {
        while self.at < self.held.len() || self.hold(input) {
            let (from, rest) = (self.at, &self.held[self.at..]);
            let end = memchr2(b'\n', b'\r', rest);
            let count = end.unwrap_or(rest.len());
            let line_end = end.map(|end| rest[end]);
            self.keep_stray(from, from + count);
            self.pass(count);
            if let Some(line_end) = line_end {
                self.pass(1);
                self.end_record(line_end);
                return true;
            }
            // None of it will be read again.
            self.held.clear();
            (self.at, self.start) = (0, 0);
        }
        false
    }

    /// The line of a stray quote as a record.
    pub(super) fn emit_stray(&mut self, line: u64) -> Result<Record<'_>, FrameError> {
        // The header determines how all rows are read.
        if self.row_next.is_none() {
            return Err(FrameError::StrayQuote { line });
        }
        let is_cut = self.text.len() == STRAY_BYTES_MAX;
        if let Err(error) = std::str::from_utf8(&self.text) {
            let at = error.valid_up_to();
            if !is_cut || error.error_len().is_some() {
                return Err(FrameError::InvalidUtf8 { line: self.record_line + self.lines_before(at) });
            }
            self.text.truncate(at);
        }
        let row = self.pass_boundary();
        let line_of_text = self.record_line;
        let Ok(text) = std::str::from_utf8(&self.text) else {
            return Err(FrameError::InvalidUtf8 { line: line_of_text });
        };
        Ok(Record { text, ends: &[], gap: 0, line, row, is_stray: true })
    }
}
