//! Keeps a reading that reached a limit for the records after it, so that each byte is looked at only a few times,
//! however many lines open a quote.
//!
//! Where a record over several lines comes to a limit, only its first line is given up, and the reading goes back to the
//! line after it. That may begin a record just as long, and so may each line after that: to read each up to its limit
//! would take a thousand times as long as to read the file.
//!
//! It need not be. How bytes are read depends on where in a cell the reading is, and on nothing before. So where a later
//! record opens the very quote of a cell that the kept reading had opened too, all behind that quote is what it was, up to
//! where that reading stopped; only the limits count from elsewhere. The reading goes on from there: its text is the later
//! part of the text that is kept, and what the record has before it is its [`Lead`].
//!
//! A record that is still open at the end of its first line opened such a quote: its line has an odd number of quotes in a
//! row there, which opens a cell for it and, had the kept reading been within one, would have closed that. So of each line
//! at most the part is read twice that another reading came to, and a byte by two kept readings at most.

use std::collections::VecDeque;

use super::Framer;
use super::quotes::InCell;

/// Text before the record in hand that is worth moving the rest for.
const DEAD_BYTES_MIN: usize = 4096;

/// A quoted cell that goes over a line end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The line on which its quote opened.
    pub(super) line: u64,
    /// The byte of the file that is its quote.
    pub(super) opened: u64,
    /// The byte of the file behind that line; an LF may follow its CR.
    pub(super) end: u64,
    /// Where it begins in the text.
    pub(super) cell_start: usize,
    /// Bytes of its text on that line, the line end included.
    pub(super) cell_bytes: usize,
    /// Ends of cells that are noted before it.
    pub(super) cells: usize,
}

/// What a record has before the text of an earlier reading, and where in that text it goes on.
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
    /// How far it came.
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

    /// Before the quote of a cell: goes on from where the kept reading stopped, if that opened this very quote. Whether
    /// it did.
    pub(super) fn join_path(&mut self) -> bool {
        let Some(path) = &mut self.path else { return false };
        while path.spans.front().is_some_and(|span| span.opened < self.byte) {
            path.spans.pop_front();
        }
        let Some(span) = path.spans.front().copied().filter(|span| span.opened == self.byte) else { return false };
        // Over the limit on its first line, the record is no stray quote's fault.
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
        // It is held: the reading went back from there.
        self.at += ahead as usize;
        (self.byte, self.line) = (path.byte, path.line);
        self.drop_dead_text();
        true
    }

    /// Drops what no later record can be of, where it is the greater part.
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

    /// At the end of a record: what comes before its text is put there.
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
