//! Keeps a reading that reached a limit for the records after it, so that each byte is looked at only a few times,
//! however many lines open a quote.
//!
//! If a record over several lines reaches a limit, only its first line is lost, and the reading goes back to the line
//! after it. That line may start a record of the same length, and so may each line after it: reading each of them up to
//! its limit would take a thousand times as long as reading the file once.
//!
//! This is not necessary. How bytes are read depends only on where in a cell the reading is, not on anything before. So
//! if a later record opens the same quote of a cell that the kept reading had opened, everything after that quote has
//! already been read, up to where the kept reading stopped; only the limits count from another start. The reading
//! continues from there: its text is the later part of the kept text, and the part of the record before it is its
//! [`Lead`].
//!
//! A record that is still open at the end of its first line has opened such a quote: its line has an odd number of
//! consecutive quotes there, which opens a cell for this record and would have closed the cell of the kept reading, had
//! that been within one. So at most the part of each line that another reading reached is read twice, and a byte by at
//! most two kept readings.

use std::collections::VecDeque;

use super::Framer;
use super::quotes::InCell;

/// Moving the rest is worth it only if at least this many bytes of text are before the current record.
const DEAD_BYTES_MIN: usize = 4096;

/// A quoted cell that spans a line end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The line on which its quote opened.
    pub(super) line: u64,
    /// The byte position of its quote in the file.
    pub(super) opened: u64,
    /// The byte position after that line in the file; an LF may follow its CR.
    pub(super) end: u64,
    /// Where it begins in the text.
    pub(super) cell_start: usize,
    /// Bytes of its text on that line, including the line end.
    pub(super) cell_bytes: usize,
    /// Number of cell ends recorded before it.
    pub(super) cells: usize,
}

/// The part of a record before the text of an earlier reading, and where in that text it continues.
#[derive(Debug, Default)]
pub(super) struct Lead {
    text: Vec<u8>,
    ends: Vec<usize>,
    text_from: usize,
    ends_from: usize,
}

impl Lead {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        (self.text_from, self.ends_from) = (0, 0);
    }
}

/// A reading that reached a limit.
#[derive(Debug)]
pub(super) struct Path {
    text: Vec<u8>,
    ends: Vec<usize>,
    spans: VecDeque<Span>,
    cell: InCell,
    opened_line: u64,
    opened_byte: u64,
    span: Option<Span>,
    nul_checked: usize,
    /// How far it read.
    pub(super) byte: u64,
    line: u64,
}

impl Framer {
    /// Bytes of text of the current record.
    pub(super) fn record_bytes(&self) -> usize {
        self.lead.text.len() + self.text.len() - self.lead.text_from
    }

    /// Cells of the current record that have ended.
    pub(super) fn record_cells(&self) -> usize {
        self.lead.ends.len() + self.ends.len() - self.lead.ends_from
    }

    /// Where the current cell starts in `text`.
    pub(super) fn cell_start(&self) -> usize {
        match self.ends.len() > self.lead.ends_from {
            true => self.ends.last().copied().unwrap_or_default(),
            false => self.lead.text_from,
        }
    }

    /// Bytes of text of the current cell.
    pub(super) fn cell_bytes(&self) -> usize {
        self.text.len() - self.cell_start()
    }

    /// Keeps the reading of the current record, which reached a limit.
    pub(super) fn keep_path(&mut self) {
        self.path = Some(Box::new(Path {
            text: std::mem::take(&mut self.text),
            ends: std::mem::take(&mut self.ends),
            spans: std::mem::take(&mut self.spans),
            cell: self.cell,
            opened_line: self.opened_line,
            opened_byte: self.opened_byte,
            span: self.span,
            nul_checked: self.nul_checked,
            byte: self.byte,
            line: self.line,
        }));
    }

    /// Before the quote of a cell: continues from where the kept reading stopped, if that reading opened the same
    /// quote. Returns whether it did.
    pub(super) fn join_path(&mut self) -> bool {
        let Some(path) = &mut self.path else { return false };
        while path.spans.front().is_some_and(|span| span.opened < self.byte) {
            path.spans.pop_front();
        }
        let Some(span) = path.spans.front().copied().filter(|span| span.opened == self.byte) else { return false };
        // If the record is over the limit on its first line, no stray quote is to blame.
        if self.text.len() + span.cell_bytes > self.limits.record_bytes_max + 1 {
            return false;
        }
        let Some(path) = self.path.take() else { return false };
        let ahead = path.byte - self.byte;
        self.lead = Lead {
            text: std::mem::replace(&mut self.text, path.text),
            ends: std::mem::replace(&mut self.ends, path.ends),
            text_from: span.cell_start,
            ends_from: span.cells,
        };
        (self.spans, self.span, self.nul_checked) = (path.spans, path.span, path.nul_checked);
        (self.cell, self.opened_line, self.opened_byte) = (path.cell, path.opened_line, path.opened_byte);
        // These bytes are held: the reading went back from there.
        self.at += ahead as usize;
        (self.byte, self.line) = (path.byte, path.line);
        self.drop_dead_text();
        true
    }

    /// Drops text that no later record can use, if it is the greater part.
    fn drop_dead_text(&mut self) {
        let dead = self.lead.text_from;
        if dead < DEAD_BYTES_MIN || dead * 2 < self.text.len() {
            return;
        }
        let dead_cells = self.lead.ends_from;
        self.text.drain(..dead);
        self.ends.drain(..dead_cells);
        self.ends.iter_mut().for_each(|end| *end -= dead);
        for span in self.spans.iter_mut().chain(&mut self.span) {
            (span.cell_start, span.cells) = (span.cell_start - dead, span.cells - dead_cells);
        }
        self.nul_checked -= dead;
        (self.lead.text_from, self.lead.ends_from) = (0, 0);
    }

    /// At the end of a record: puts the part before its text in place.
    pub(super) fn join_lead(&mut self) {
        let lead = std::mem::take(&mut self.lead);
        if lead.text_from == 0 && lead.text.is_empty() && lead.ends.is_empty() {
            return;
        }
        let (len, from) = (lead.text.len(), lead.text_from);
        self.text.splice(..from, lead.text);
        let ends = self.ends.drain(lead.ends_from..).map(|end| end - from + len);
        self.ends = lead.ends.into_iter().chain(ends).collect();
        self.nul_checked = 0;
    }
}
