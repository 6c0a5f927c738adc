//! Rows to bytes, and bytes to files of at most so many rows.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use freshet_topics::{NewColumn, TextEncoding};

use super::fill::{Scratch, Take, Today, World};
use super::shape::Shape;
use super::{DomainSummary, GenerateOptions};

/// The cells of one row, in one buffer that is used again.
pub(super) struct Row {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    delimiter: u8,
    /// Whether a cell needs quotes; numbers do only for a comma.
    is_quoted: bool,
}

impl Row {
    /// An empty row, of a file with this delimiter.
    pub(super) fn of(delimiter: u8) -> Row {
        Row { bytes: Vec::new(), ends: Vec::new(), delimiter, is_quoted: false }
    }

    /// Empties it for the next row.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.is_quoted = false;
    }

    fn end_cell(&mut self) {
        self.ends.push(self.bytes.len());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.is_quoted |= text.bytes().any(|byte| self.needs_quotes(byte));
        self.plain(text);
    }

    /// Text that needs no quotes.
    pub(super) fn plain(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.end_cell();
    }

    /// A whole number.
    pub(super) fn whole(&mut self, value: f64) {
        self.signed(value);
        self.digits(value.abs() as u64);
        self.end_cell();
    }

    /// So many decimals as `ten_to` has zeros, with no zeros at the end but the first decimal, as Python writes floats;
    /// `point` is the decimal sign.
    pub(super) fn fixed(&mut self, value: f64, ten_to: f64, point: u8) {
        let scaled = (value * ten_to).round();
        self.signed(scaled);
        let (scaled, ten_to) = (scaled.abs() as u64, ten_to as u64);
        self.digits(scaled / ten_to);
        self.bytes.push(point);
        self.is_quoted |= point == self.delimiter;
        let (mut rest, mut place) = (scaled % ten_to, ten_to / 10);
        loop {
            self.bytes.push(b'0' + (rest / place) as u8);
            (rest, place) = (rest % place, place / 10);
            if rest == 0 {
                break;
            }
        }
        self.end_cell();
    }

    fn signed(&mut self, value: f64) {
        if value < 0.0 {
            self.bytes.push(b'-');
        }
    }

    fn digits(&mut self, mut value: u64) {
        let mut digits = [0_u8; 20];
        let mut from = digits.len();
        loop {
            from -= 1;
            digits[from] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[from..]);
    }

    /// Its cells, unquoted.
    pub(super) fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    pub(super) fn truncate(&mut self, cells: usize) {
        self.ends.truncate(cells);
        self.bytes.truncate(self.ends.last().copied().unwrap_or_default());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text of a cell; nothing where the row is shorter.
    pub(super) fn cell(&self, index: usize) -> String {
        self.cells().nth(index).map(|cell| String::from_utf8_lossy(cell).into_owned()).unwrap_or_default()
    }

    /// Replaces one cell; only rows with a defect pay for it.
    pub(super) fn set(&mut self, index: usize, change: impl FnOnce(&str) -> String) {
        let cells: Vec<Vec<u8>> = self.cells().map(<[u8]>::to_vec).collect();
        let mut change = Some(change);
        self.clear();
        for (at, cell) in cells.iter().enumerate() {
            let text = String::from_utf8_lossy(cell);
            match (at == index).then(|| change.take()).flatten() {
                Some(change) => self.text(&change(&text)),
                None => self.text(&text),
            }
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for (at, cell) in self.cells().enumerate() {
            if at > 0 {
                out.push(self.delimiter);
            }
            if self.is_quoted && cell.iter().any(|byte| self.needs_quotes(*byte)) {
                out.push(b'"');
                for byte in cell {
                    out.extend_from_slice(if *byte == b'"' { b"\"\"" } else { std::slice::from_ref(byte) });
                }
                out.push(b'"');
            } else {
                out.extend_from_slice(cell);
            }
        }
    }

    fn needs_quotes(&self, byte: u8) -> bool {
        byte == self.delimiter || matches!(byte, b'"' | b'\n' | b'\r')
    }
}

/// How a file is written. A dirty set goes through all of them, file by file: all say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// As the source writes it.
    Plain,
    /// With a byte order mark and CRLF.
    Windows,
    /// Upper-case header with blanks, no newline after the last row.
    Shouting,
    /// A column that the domain does not know, with quoted commas, quotes and newlines.
    ExtraColumn,
}

const STYLES: [Style; 4] = [Style::Plain, Style::Windows, Style::Shouting, Style::ExtraColumn];

/// Rows go in, files of at most so many rows come out.
pub(super) struct Files<'a> {
    pub(super) shape: &'a Shape,
    world: &'a World<'a>,
    folder: PathBuf,
    /// The only file there can be, where the domain takes no folder of them.
    only_file: Option<&'static str>,
    rows_per_file: u64,
    dirty: bool,
    open: Option<BufWriter<File>>,
    style: Style,
    rows_in_file: u64,
    line: Vec<u8>,
    scratch: Scratch,
    pub(super) summary: DomainSummary,
}

impl<'a> Files<'a> {
    pub(super) fn new(options: &GenerateOptions, world: &'a World<'a>, shape: &'a Shape) -> Result<Self> {
        let (folder, only_file) = shape.place();
        let folder = options.out.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("make folder {}", folder.display()))?;
        Ok(Files {
            shape,
            world,
            folder,
            only_file,
            rows_per_file: if only_file.is_some() { u64::MAX } else { options.rows_per_file },
            dirty: options.dirty > 0.0,
            open: None,
            style: Style::Plain,
            rows_in_file: 0,
            line: Vec::new(),
            scratch: Scratch::default(),
            summary: DomainSummary { domain: shape.domain.name, files: 0, rows: 0, defects: 0, bytes: 0 },
        })
    }

    /// Fills the row for the file that it will be written to.
    pub(super) fn fill(&mut self, row: &mut Row, entity: u32, today: &Today, take: Take) -> Result<()> {
        self.roll(&today.day.text)?;
        self.world.fill(self.shape, row, &mut self.scratch, entity, today, take);
        if self.style == Style::ExtraColumn {
            row.text("station 7, \"roof\"\nsouth side");
        }
        Ok(())
    }

    pub(super) fn write(&mut self, row: &Row, date: &str) -> Result<()> {
        self.roll(date)?;
        self.end_line();
        row.write(&mut self.line);
        self.rows_in_file += 1;
        self.summary.rows += 1;
        self.flush_line()
    }

    pub(super) fn blank_line(&mut self, date: &str) -> Result<()> {
        self.roll(date)?;
        self.end_line();
        self.flush_line()
    }

    /// Lines are ended before the next begins, so that a file may lack the last newline.
    fn end_line(&mut self) {
        self.line.extend_from_slice(if self.style == Style::Windows { b"\r\n" } else { b"\n" });
    }

    fn flush_line(&mut self) -> Result<()> {
        if let Some(open) = &mut self.open {
            let bytes = self.shape.encoded(&self.line);
            open.write_all(&bytes).with_context(|| format!("write to {}", self.folder.display()))?;
            self.summary.bytes += bytes.len() as u64;
        }
        self.line.clear();
        Ok(())
    }

    /// Opens the next file if there is none or the last one is full.
    fn roll(&mut self, date: &str) -> Result<()> {
        if self.open.is_some() && self.rows_in_file < self.rows_per_file {
            return Ok(());
        }
        self.close()?;
        let domain = self.shape.domain.name;
        let number = self.summary.files + 1;
        let name = match (self.only_file, self.shape.is_fact(), number) {
            (Some(name), ..) => name.to_owned(),
            (_, true, _) => format!("{domain}-{date}-{number:05}.csv"),
            (_, false, 1) => format!("{domain}.csv"),
            (_, false, _) => format!("{domain}-{number:05}.csv"),
        };
        let path = self.folder.join(name);
        let file = File::create_new(&path).with_context(|| format!("create file {}", path.display()))?;
        self.open = Some(BufWriter::with_capacity(256 * 1024, file));
        self.style = self.next_style();
        self.summary.files = number;
        self.rows_in_file = 0;
        self.write_header()
    }

    /// A dirty set goes through all styles, but for the one that its domain rejects.
    fn next_style(&self) -> Style {
        match STYLES[(self.summary.files % 4) as usize] {
            _ if !self.dirty => Style::Plain,
            Style::ExtraColumn if self.shape.domain.on_new_column == NewColumn::Reject => Style::Plain,
            style => style,
        }
    }

    fn write_header(&mut self) -> Result<()> {
        let (mut header, delimiter) = (self.shape.header(), char::from(self.shape.domain.delimiter));
        match self.style {
            Style::Plain => {}
            // Windows-1252 has no byte order mark.
            Style::Windows if self.shape.domain.encoding == TextEncoding::Windows1252 => {}
            Style::Windows => header.insert(0, '\u{feff}'),
            Style::Shouting => header = header.to_uppercase().replace(delimiter, &format!(" {delimiter} ")),
            Style::ExtraColumn => header.push_str(&format!("{delimiter}{}", self.shape.unknown_column())),
        }
        self.line.extend_from_slice(header.as_bytes());
        self.flush_line()
    }

    fn close(&mut self) -> Result<()> {
        if self.open.is_some() && self.style != Style::Shouting {
            self.end_line();
            self.flush_line()?;
        }
        if let Some(mut open) = self.open.take() {
            open.flush().with_context(|| format!("write to {}", self.folder.display()))?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<DomainSummary> {
        self.close()?;
        Ok(self.summary)
    }
}
