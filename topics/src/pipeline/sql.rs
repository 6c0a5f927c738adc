//! The text of a query: its parameters, found where Postgres would find them, and its canonical form.
//!
//! Strings, quoted identifiers, dollar quotes, comments and casts (`::`) are distinguished from parameters by the
//! lexical rules of Postgres (its manual, section 4.1); nothing else about SQL is known here.

use super::mistake::{Mistakes, Place, did_you_mean};

/// The parameters of a query. They are bound, never inserted as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parameter {
    /// `:window_kind`, text.
    WindowKind,
    /// `:window_start`, the window's first day.
    WindowStart,
    /// `:window_end`, the day after its last.
    WindowEnd,
    /// `:is_final`, whether the window is closed.
    IsFinal,
}

impl Parameter {
    /// All of them, in the order in which they are bound.
    pub const ALL: [Parameter; 4] =
        [Parameter::WindowKind, Parameter::WindowStart, Parameter::WindowEnd, Parameter::IsFinal];

    /// Its name, without the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Parameter::WindowKind => "window_kind",
            Parameter::WindowStart => "window_start",
            Parameter::WindowEnd => "window_end",
            Parameter::IsFinal => "is_final",
        }
    }

    /// The parameter in Postgres' form: `$2::date`.
    pub const fn bound(self) -> &'static str {
        match self {
            Parameter::WindowKind => "$1::text",
            Parameter::WindowStart => "$2::date",
            Parameter::WindowEnd => "$3::date",
            Parameter::IsFinal => "$4::boolean",
        }
    }
}

/// A parsed query.
#[derive(Debug, Clone)]
pub struct Query {
    parts: Vec<Part>,
    /// The positions of its text in the file, in order.
    origins: Vec<Origin>,
    file: String,
}

/// Where a stretch of text comes from, up to the next one.
#[derive(Debug, Clone, Copy)]
struct Origin {
    part: usize,
    /// The byte of the text at which it begins.
    at: usize,
    /// The byte of the file at which it begins.
    from: usize,
}

/// Queries are equal if their text is, wherever they are in a file.
impl PartialEq for Query {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl Eq for Query {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Sql(String),
    Parameter(Parameter),
}

impl Query {
    /// Reads the query in a file. Reports anything but a single query, and unknown parameters, as mistakes.
    pub fn read(text: &str, mistakes: &mut Mistakes) -> Option<Query> {
        let before = mistakes.count();
        let mut lexer =
            Lexer { text, at: 0, first: None, parts: Vec::new(), origins: Vec::new(), open: Vec::new(), ended: false };
        lexer.run(mistakes);
        let query = Query { parts: lexer.parts, origins: lexer.origins, file: text.to_owned() };
        let canonical = query.canonical();
        let first = canonical.trim_start_matches('(').split([' ', '(', '*']).next().unwrap_or_default();
        if !["select", "with", "values", "table"].contains(&first.to_ascii_lowercase().as_str()) {
            let said = match first {
                "" => "a query is expected after the head: SELECT … or WITH …".to_owned(),
                first => format!("an output is one query that begins with SELECT or WITH, not with `{first}`"),
            };
            mistakes.add(place_of(text, lexer.first.unwrap_or(text.len())), said);
        }
        (mistakes.count() == before).then_some(query)
    }

    /// The query without comments, and with one space for blanks outside of quotes: the same text for the same query.
    pub fn canonical(&self) -> String {
        self.with(|parameter| format!(":{}", parameter.name()))
    }

    /// The query as it is prepared, with its parameters bound.
    pub fn bound(&self) -> String {
        self.with(|parameter| parameter.bound().to_owned())
    }

    /// The query with something in place of each parameter.
    pub fn with(&self, of: impl Fn(Parameter) -> String) -> String {
        let texts = self.parts.iter().map(|part| match part {
            Part::Sql(text) => text.clone(),
            Part::Parameter(parameter) => of(*parameter),
        });
        texts.collect::<String>().trim().to_owned()
    }

    /// The position in the file of a character of [`Query::bound`], counted from 1, as Postgres does: for a parameter,
    /// the position of its name; beyond the end, the end.
    pub fn place_of_bound(&self, position: usize) -> Place {
        let mut before = position.saturating_sub(1);
        for (index, part) in self.parts.iter().enumerate() {
            let (text, is_sql) = match part {
                Part::Sql(text) => (text.as_str(), true),
                Part::Parameter(parameter) => (parameter.bound(), false),
            };
            if let Some((byte, _)) = text.char_indices().nth(before) {
                return self.place_in(index, if is_sql { byte } else { 0 });
            }
            before -= text.chars().count();
        }
        let last = self.parts.len().saturating_sub(1);
        self.place_in(last, self.parts.last().map_or(0, Part::file_bytes))
    }

    fn place_in(&self, part: usize, byte: usize) -> Place {
        let origin = self.origins.iter().rev().find(|origin| origin.part == part && origin.at <= byte);
        origin.map_or(Place::START, |origin| place_of(&self.file, origin.from + byte - origin.at))
    }

    /// Whether it uses this parameter.
    pub fn asks_for(&self, parameter: Parameter) -> bool {
        self.parts.contains(&Part::Parameter(parameter))
    }
}

impl Part {
    /// Its length in the file.
    fn file_bytes(&self) -> usize {
        match self {
            Part::Sql(text) => text.trim_end().len(),
            Part::Parameter(parameter) => 1 + parameter.name().len(),
        }
    }
}

/// The line and column of a byte of a text.
pub(super) fn place_of(text: &str, at: usize) -> Place {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// Where the query begins, after blanks and comments.
    first: Option<usize>,
    parts: Vec<Part>,
    origins: Vec<Origin>,
    /// Open brackets, with their positions.
    open: Vec<(char, usize)>,
    /// Whether there was a semicolon already.
    ended: bool,
}

impl<'t> Lexer<'t> {
    fn run(&mut self, mistakes: &mut Mistakes) {
        while let Some(next) = self.rest().chars().next() {
            let from = self.at;
            if next.is_whitespace() || self.rest().starts_with("--") || self.rest().starts_with("/*") {
                self.blank(mistakes);
                continue;
            }
            self.first.get_or_insert(from);
            if self.ended {
                mistakes.add(self.place(from), "an output is one query: nothing may follow its semicolon");
                return;
            }
            match next {
                ';' => {
                    self.ended = true;
                    self.at += 1;
                }
                '\'' | '"' => self.quoted(next, false, mistakes),
                '$' => self.dollar(mistakes),
                ':' => self.colon(mistakes),
                '(' | '[' => {
                    self.open.push((next, from));
                    self.take(1);
                }
                ')' | ']' => self.close(next, mistakes),
                _ if is_word(next) => self.word(mistakes),
                _ => self.take(next.len_utf8()),
            }
        }
        for (bracket, at) in std::mem::take(&mut self.open) {
            mistakes.add(self.place(at), format!("this `{bracket}` is never closed"));
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn place(&self, at: usize) -> Place {
        place_of(self.text, at)
    }

    /// Copies this many bytes unchanged.
    fn take(&mut self, bytes: usize) {
        let (from, taken) = (self.at, &self.text[self.at..self.at + bytes]);
        self.at += bytes;
        let at = match self.parts.last_mut() {
            Some(Part::Sql(text)) => {
                let at = text.len();
                text.push_str(taken);
                at
            }
            _ => {
                self.parts.push(Part::Sql(taken.to_owned()));
                0
            }
        };
        self.origins.push(Origin { part: self.parts.len() - 1, at, from });
    }

    /// Blanks and comments become one space.
    fn blank(&mut self, mistakes: &mut Mistakes) {
        while let Some(next) = self.rest().chars().next() {
            if self.rest().starts_with("--") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                self.comment(mistakes);
            } else if next.is_whitespace() {
                self.at += next.len_utf8();
            } else {
                break;
            }
        }
        match self.parts.last_mut() {
            Some(Part::Sql(text)) => text.push(' '),
            Some(Part::Parameter(_)) => {
                self.parts.push(Part::Sql(" ".to_owned()));
                self.origins.push(Origin { part: self.parts.len() - 1, at: 0, from: self.at });
            }
            None => {}
        }
    }

    /// A comment, which may contain others.
    fn comment(&mut self, mistakes: &mut Mistakes) {
        let (from, mut depth) = (self.at, 0_usize);
        loop {
            if self.rest().starts_with("/*") {
                (depth, self.at) = (depth + 1, self.at + 2);
            } else if self.rest().starts_with("*/") {
                (depth, self.at) = (depth - 1, self.at + 2);
                if depth == 0 {
                    return;
                }
            } else if let Some(next) = self.rest().chars().next() {
                self.at += next.len_utf8();
            } else {
                mistakes.add(self.place(from), "this comment is never closed: `*/` is missing");
                return;
            }
        }
    }

    /// A string or a quoted identifier; a doubled quote stands for one within it.
    fn quoted(&mut self, quote: char, has_escapes: bool, mistakes: &mut Mistakes) {
        let (from, mut end) = (self.at, None);
        let mut characters = self.rest().char_indices().skip(1).peekable();
        while let Some((at, character)) = characters.next() {
            if has_escapes && character == '\\' {
                characters.next();
            } else if character == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
                end = Some(at + 1);
                break;
            }
        }
        if end.is_none() {
            mistakes.add(self.place(from), format!("this {quote} is never closed"));
        }
        self.take(end.unwrap_or(self.rest().len()));
    }

    /// `$tag$ … $tag$`, or `$1`, which is a mistake: parameters have names.
    fn dollar(&mut self, mistakes: &mut Mistakes) {
        let from = self.at;
        let inner = &self.rest()[1..];
        if inner.starts_with(|next: char| next.is_ascii_digit()) {
            let names = Parameter::ALL.map(|parameter| format!(":{}", parameter.name())).join(", ");
            mistakes.add(self.place(from), format!("parameters have names: {names}"));
            return self.take(1);
        }
        let tag = inner.find(|next: char| !is_word(next)).filter(|end| inner[*end..].starts_with('$'));
        let Some(tag) = tag.map(|end| &self.rest()[..end + 2]) else { return self.take(1) };
        match self.rest()[tag.len()..].find(tag) {
            Some(end) => self.take(end + 2 * tag.len()),
            None => {
                mistakes.add(self.place(from), format!("this {tag} is never closed"));
                self.take(self.rest().len());
            }
        }
    }

    fn colon(&mut self, mistakes: &mut Mistakes) {
        let inner = &self.rest()[1..];
        if inner.starts_with([':', '=']) {
            return self.take(2);
        }
        let name = &inner[..inner.find(|next: char| !is_word(next)).unwrap_or(inner.len())];
        if !name.starts_with(|first: char| is_word(first) && !first.is_ascii_digit()) {
            return self.take(1);
        }
        match Parameter::ALL.into_iter().find(|parameter| parameter.name() == name) {
            Some(parameter) => {
                self.parts.push(Part::Parameter(parameter));
                self.origins.push(Origin { part: self.parts.len() - 1, at: 0, from: self.at });
            }
            None => {
                let hint = did_you_mean(name, Parameter::ALL.map(Parameter::name));
                let known = Parameter::ALL.map(|parameter| format!(":{}", parameter.name())).join(", ");
                mistakes.add(self.place(self.at), format!("there is no parameter `:{name}`{hint} (there are {known})"));
            }
        }
        self.at += 1 + name.len();
    }

    fn close(&mut self, bracket: char, mistakes: &mut Mistakes) {
        let opening = if bracket == ')' { '(' } else { '[' };
        match self.open.pop() {
            Some((open, _)) if open == opening => {}
            _ => mistakes.add(self.place(self.at), format!("this `{bracket}` has no opening bracket")),
        }
        self.take(1);
    }

    fn word(&mut self, mistakes: &mut Mistakes) {
        let length = self.rest().find(|next: char| !is_word(next) && next != '$').unwrap_or(self.rest().len());
        let is_escape = self.rest()[..length].eq_ignore_ascii_case("e");
        self.take(length);
        if is_escape && self.rest().starts_with('\'') {
            self.quoted('\'', true, mistakes);
        }
    }
}

/// Whether a character can be part of an identifier or a number.
fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Query, Vec<String>> {
        let mut mistakes = Mistakes::of("f");
        let query = Query::read(text, &mut mistakes);
        query.ok_or_else(|| mistakes.into_sorted().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_parameter_is_found_where_postgres_would_find_it_and_nowhere_else() {
        let cases = [
            ("SELECT :window_start", "SELECT $2::date"),
            ("SELECT a::date,:window_end::text FROM t", "SELECT a::date,$3::date::text FROM t"),
            ("SELECT ':is_final', ''':is_final'", "SELECT ':is_final', ''':is_final'"),
            ("SELECT E'\\':is_final', :is_final", "SELECT E'\\':is_final', $4::boolean"),
            ("SELECT '\\', :is_final", "SELECT '\\', $4::boolean"),
            ("SELECT \":is_final\", a[1 : 2], f(a := 1)", "SELECT \":is_final\", a[1 : 2], f(a := 1)"),
            ("SELECT $$:x$$, $t$ $$ :x '$t$", "SELECT $$:x$$, $t$ $$ :x '$t$"),
            ("SELECT 1 -- :x '\n, /* ' /* :y */ ; */ :window_kind", "SELECT 1 , $1::text"),
            ("SELECT\n  1\t+ 'a  b' ;  -- done\n", "SELECT 1 + 'a  b'"),
            ("(SELECT 1) UNION SELECT é$1, a$b FROM t", "(SELECT 1) UNION SELECT é$1, a$b FROM t"),
        ];
        for (text, bound) in cases {
            assert_eq!(read(text).map(|query| query.bound()), Ok(bound.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_says_the_same_has_one_canonical_text() {
        let one = read("SELECT a, -- the first\n       'x  y'\nFROM t WHERE d < :window_end").expect("a query");
        let other = read("/* head */ SELECT a, 'x  y' FROM t\n\nWHERE d < :window_end;").expect("a query");
        assert_eq!(one.canonical(), other.canonical());
        assert_eq!(one.canonical(), "SELECT a, 'x  y' FROM t WHERE d < :window_end");
        assert_ne!(one, read("SELECT a, 'x y' FROM t WHERE d < :window_end").expect("a query"));
        assert!(one.asks_for(Parameter::WindowEnd) && !one.asks_for(Parameter::IsFinal));
    }

    #[test]
    fn what_postgres_points_at_is_found_in_the_file() {
        let cases = [
            ("/* head */\nSELECT a", "SELECT", (2, 1)),
            ("/* head */\nSELECT a, -- the first\n       b\nFROM t", "b", (3, 8)),
            ("SELECT 1 /* é */, 'é', é\n  , b", "b", (2, 5)),
            ("SELECT\n  :window_start, b", "$2", (2, 3)),
            ("SELECT :window_start,\n  b + :is_final\nFROM t", "b ", (2, 3)),
            ("SELECT :window_start,\n  b + :is_final\nFROM t", "$4", (2, 7)),
            ("SELECT :window_start -- all\n  FROM t", "FROM", (2, 3)),
            ("SELECT :window_start::text FROM  t ; -- done", "text", (1, 23)),
        ];
        for (text, pointed_at, (line, column)) in cases {
            let query = read(text).expect("a query");
            let bound = query.bound();
            let byte = bound.find(pointed_at).unwrap_or_else(|| panic!("{pointed_at} in {bound}"));
            let position = bound[..byte].chars().count() + 1;
            assert_eq!(query.place_of_bound(position), Place { line, column }, "{pointed_at} in {text}");
        }
        for (text, (line, column)) in [("SELECT a FROM\n  t -- x\n", (2, 4)), ("SELECT a = :is_final;", (1, 21))] {
            let query = read(text).expect("a query");
            let end = query.bound().chars().count() + 1;
            assert_eq!(query.place_of_bound(end), Place { line, column }, "the end of {text}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let cases: &[(&str, &[&str])] = &[
            (
                "SELECT :window_strat,\n  :final",
                &[
                    "f:1:8: there is no parameter `:window_strat`; did you mean window_start? (there are :window_kind, \
                     :window_start, :window_end, :is_final)",
                    "f:2:3: there is no parameter `:final` (there are :window_kind, :window_start, :window_end, \
                     :is_final)",
                ],
            ),
            ("SELECT $1", &["f:1:8: parameters have names: :window_kind, :window_start, :window_end, :is_final"]),
            ("SELECT 1;\nSELECT 2", &["f:2:1: an output is one query: nothing may follow its semicolon"]),
            ("SELECT (1]", &["f:1:10: this `]` has no opening bracket"]),
            ("SELECT (1", &["f:1:8: this `(` is never closed"]),
            ("SELECT 'a\n", &["f:1:8: this ' is never closed"]),
            ("SELECT 1 /* a", &["f:1:10: this comment is never closed: `*/` is missing"]),
            ("DELETE FROM t", &["f:1:1: an output is one query that begins with SELECT or WITH, not with `DELETE`"]),
            ("-- nothing\n", &["f:2:1: a query is expected after the head: SELECT … or WITH …"]),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Err(expected.iter().map(|said| (*said).to_owned()).collect()), "{text}");
        }
    }
}
