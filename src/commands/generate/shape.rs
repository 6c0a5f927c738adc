//! The shape of a domain's files: the source and the format of each column's values, derived once from the contract.
//!
//! | column | value |
//! |---|---|
//! | key of a dimension, by which it is partitioned | the number of the entity, 1 to N |
//! | refers to a dimension: in a key | that column in the row of the same entity |
//! | refers to a dimension: elsewhere | that column in the row of any entity |
//! | event time | the day |
//! | tells observed rows | the observed value, or another one for a projection |
//! | whole number in the key beside them, may be NULL | the year of a projection, NULL for an observation |
//! | in a key without the event time | a number that no other row has |
//! | any other | as [`Sample`] says, else from its rules, else from its type |
//!
//! A value is a number while it is worked out: a date is its day, a choice its place in the list.

use std::borrow::Cow;

use anyhow::{Context, Result, bail, ensure};
use freshet_ingest::object::encoded;
use freshet_topics::judge::{self, Notes};
use freshet_topics::{Cast, Cell, Column, Comparison, Domain, Instead, Sample, Season, TextEncoding};

use super::defects::Defects;
use super::measured::{clean_cells, limits, measured, spelled};
use super::random::salt;

/// What one domain's files look like.
pub(super) struct Shape {
    pub(super) domain: &'static Domain,
    /// Tells the domain's chances from the others'.
    pub(super) salt: u64,
    /// One a column of the domain.
    pub(super) columns: Vec<Filled>,
    /// The columns in the order in which they are worked out: what scales another comes before it.
    pub(super) order: Vec<usize>,
    /// Rows of dimensions that a row refers to.
    pub(super) links: Vec<Link>,
    /// Values of those rows.
    pub(super) borrowed: Vec<Borrowed>,
    pub(super) bounds: Vec<Bound>,
    /// Whether a row can be a projection.
    pub(super) is_projectable: bool,
    pub(super) defects: Defects,
}

/// How a column is filled.
pub(super) struct Filled {
    pub(super) source: Source,
    pub(super) form: Form,
    /// Tells the column's chances from the others'.
    pub(super) salt: u64,
    /// Its value stays when a row comes again with other values.
    pub(super) is_key: bool,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// The number of the entity, counted from here.
    Entity(f64),
    /// One of [`Shape::borrowed`].
    Borrowed(usize),
    /// A number that no other row has.
    Serial,
    /// The day.
    Day,
    /// 0 for an observation, 1 for a projection.
    Projected,
    /// The year; of an observation only if so, else NULL.
    Year { observed: bool },
    /// One of so many.
    Pick(usize),
    /// Some time of the day or before it: so many a day, at most so many away, within limits.
    Near { a_day: f64, away: f64, limits: (f64, f64) },
    /// A number that changes from day to day, or is the entity's own.
    Measure(Measure),
}

/// How a measured number comes about; see [`Sample`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measure {
    pub(super) least: f64,
    pub(super) greatest: f64,
    /// Digits after the point that the value has.
    pub(super) decimals: u8,
    pub(super) season: Option<Season>,
    pub(super) persistence_days: u64,
    pub(super) refill_days: Option<u64>,
    pub(super) skew: u8,
    pub(super) scale: Option<Scale>,
    /// What the rules and the type allow.
    pub(super) limits: (f64, f64),
    /// Numbers that stand for "not known".
    pub(super) missing: Vec<f64>,
}

/// What a number is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Another column of the row.
    Own(usize),
    /// One of [`Shape::borrowed`].
    Borrowed(usize),
}

/// How a number is written as a cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    Number {
        decimals: u8,
    },
    Date,
    Timestamp,
    Choice(Vec<String>),
    /// A made-up name.
    Name,
}

/// A row of a dimension.
pub(super) struct Link {
    /// Which of the shapes.
    pub(super) shape: usize,
    /// The chance that picks an entity; that of the row itself where there is none.
    pub(super) salt: Option<u64>,
}

/// A value of a row that is referred to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Borrowed {
    /// One of [`Shape::links`].
    pub(super) link: usize,
    /// One of the dimension's columns.
    pub(super) column: usize,
}

/// A rule over two columns that holds in every clean row.
pub(super) struct Bound {
    pub(super) column: usize,
    pub(super) comparison: Comparison,
    pub(super) other: usize,
    /// Text is made the same: made-up words have no order to keep to.
    pub(super) is_same: bool,
}

/// The shapes of all domains, in their order.
///
/// # Errors
/// If a contract does not say enough for values of a column, or says what cannot be.
pub(super) fn shapes(domains: &'static [&'static Domain]) -> Result<Vec<Shape>> {
    let mut shapes = Vec::with_capacity(domains.len());
    for domain in domains {
        shapes.push(shape(domains, domain).with_context(|| format!("sample data of {}", domain.name))?);
    }
    for at in 0..shapes.len() {
        for column in 0..shapes[at].columns.len() {
            let Shape { domain, .. } = &shapes[at];
            let end = end_of(&shapes, at, column).with_context(|| {
                format!("column {} of {} depends on itself", domain.columns[column].name, domain.name)
            })?;
            if let Source::Borrowed(_) = shapes[at].columns[column].source {
                shapes[at].columns[column].form = shapes[end.0].columns[end.1].form.clone();
            }
        }
    }
    Ok(shapes)
}

/// The column that a value comes from in the end, in which of the shapes; `None` where that leads round in a ring.
fn end_of(shapes: &[Shape], shape: usize, column: usize) -> Option<(usize, usize)> {
    let (mut at, mut source) = ((shape, column), None);
    let longest: usize = shapes.iter().map(|shape| shape.columns.len()).sum();
    for _ in 0..=longest {
        let Shape { columns, links, borrowed, .. } = &shapes[at.0];
        let follow = |borrowed: &Borrowed| (links[borrowed.link].shape, borrowed.column);
        at = match &columns[at.1].source {
            Source::Borrowed(index) => follow(&borrowed[*index]),
            Source::Measure(Measure { scale: Some(Scale::Own(own)), .. }) => {
                source.get_or_insert(at);
                (at.0, *own)
            }
            Source::Measure(Measure { scale: Some(Scale::Borrowed(index)), .. }) => {
                source.get_or_insert(at);
                follow(&borrowed[*index])
            }
            _ => return Some(source.unwrap_or(at)),
        };
    }
    None
}

/// What certain columns of a domain are for, by their places.
struct Parts {
    /// The key column that holds the number of the entity, if none refers to a dimension.
    entity: Option<usize>,
    /// The key column that holds a number of its own, where the key has no event time.
    serial: Option<usize>,
    date: Option<usize>,
    observed: Option<usize>,
}

impl Parts {
    fn of(domains: &[&'static Domain], domain: &'static Domain) -> Parts {
        let at = |name: &&str| domain.index_of(name);
        let date = domain.event_time.map(|event_time| domain.index_of(event_time.date));
        let observed = domain.event_time.and_then(|event_time| event_time.observed_when);
        let observed = observed.map(|observed| domain.index_of(observed.column));
        let key: Vec<usize> = domain.key.iter().map(at).collect();
        let is_plain = |at: &usize| {
            reference(domains, &domain.columns[*at]).is_none() && Some(*at) != date && Some(*at) != observed
        };
        let has_number = |at: &usize| is_plain(at) && domain.columns[*at].cast != Cast::Bool;
        let refers = key.iter().any(|at| reference(domains, &domain.columns[*at]).is_some());
        let partition = domain.index_of(domain.partition_by);
        let entity = match refers && date.is_some() {
            true => None,
            false => key.iter().copied().filter(has_number).min_by_key(|at| *at != partition),
        };
        let serial = match date {
            Some(date) if !key.contains(&date) => key.iter().copied().find(has_number),
            _ => None,
        };
        Parts { entity, serial, date, observed }
    }
}

fn shape(domains: &'static [&'static Domain], domain: &'static Domain) -> Result<Shape> {
    let parts = Parts::of(domains, domain);
    let mut shape = Shape {
        domain,
        salt: salt(&[domain.name]),
        columns: Vec::with_capacity(domain.columns.len()),
        order: Vec::new(),
        links: Vec::new(),
        borrowed: Vec::new(),
        bounds: Vec::new(),
        is_projectable: false,
        defects: Defects::of(domain),
    };
    for (at, column) in domain.columns.iter().enumerate() {
        let (source, form) = shape.filled(domains, &parts, at).with_context(|| format!("column {}", column.name))?;
        shape.is_projectable |= source == Source::Projected && matches!(&form, Form::Choice(texts) if texts.len() > 1);
        let is_key = domain.key.contains(&column.name);
        shape.columns.push(Filled { source, form, salt: salt(&[domain.name, column.name]), is_key });
    }
    for (at, column) in domain.columns.iter().enumerate() {
        shape.scale(domains, at).with_context(|| format!("column {}", column.name))?;
    }
    shape.order = shape.ordered()?;
    shape.bind();
    Ok(shape)
}

impl Shape {
    /// One row an entity and day, or one an entity.
    pub(super) fn is_fact(&self) -> bool {
        self.domain.event_time.is_some()
    }

    /// The heading of its files.
    pub(super) fn header(&self) -> String {
        let names: Vec<&str> = self.domain.columns.iter().map(|column| column.name).collect();
        names.join(&char::from(self.domain.delimiter).to_string())
    }

    /// A line in the encoding of its files.
    pub(super) fn encoded<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]> {
        match self.domain.encoding {
            TextEncoding::Utf8 => Cow::Borrowed(line),
            encoding => Cow::Owned(encoded(encoding, &String::from_utf8_lossy(line))),
        }
    }

    /// The name of a column that the domain does not have.
    pub(super) fn unknown_column(&self) -> String {
        let known =
            |name: &str| self.domain.columns.iter().any(|column| column.name == name || column.aliases.contains(&name));
        let mut name = "remark".to_owned();
        while known(&name) {
            name.push('s');
        }
        name
    }

    /// The folder that its files belong to; or the folder and the name of the one file that a domain takes.
    pub(super) fn place(&self) -> (&'static str, Option<&'static str>) {
        let patterns = self.domain.patterns;
        match patterns.iter().find(|pattern| pattern.ends_with('/')) {
            Some(folder) => (folder, None),
            None => match patterns.first().map(|key| key.rsplit_once('/').unwrap_or(("", key))) {
                Some((folder, name)) => (folder, Some(name)),
                None => (self.domain.name, None),
            },
        }
    }

    fn filled(&mut self, domains: &[&'static Domain], parts: &Parts, at: usize) -> Result<(Source, Form)> {
        let column = &self.domain.columns[at];
        let digits = Form::Number { decimals: 0 };
        if parts.date == Some(at) {
            return Ok((Source::Day, Form::Date));
        }
        if parts.observed == Some(at) {
            return Ok((Source::Projected, Form::Choice(self.observed_and_not(column))));
        }
        if parts.serial == Some(at) {
            return Ok((Source::Serial, digits));
        }
        if parts.entity == Some(at) {
            return Ok(entity(column));
        }
        if let Some((dimension, other)) = reference(domains, column) {
            let is_same = self.domain.event_time.is_some() && self.domain.key.contains(&column.name);
            let salt = (!is_same).then(|| salt(&[self.domain.name, column.name, "entity"]));
            self.links.push(Link { shape: dimension, salt });
            let borrowed = self.borrow(Borrowed { link: self.links.len() - 1, column: other });
            return Ok((Source::Borrowed(borrowed), digits));
        }
        if parts.observed.is_some() && self.domain.key.contains(&column.name) && is_year(column) {
            let observed = column.empty != Instead::Null;
            // As programs write whole numbers in a column that has gaps.
            return Ok((Source::Year { observed }, Form::Number { decimals: u8::from(!observed) }));
        }
        measured(column, self.domain.event_time.is_some())
    }

    /// The place of a borrowed value, which is worked out once a row however many columns it scales.
    fn borrow(&mut self, borrowed: Borrowed) -> usize {
        let known = self.borrowed.iter().position(|other| *other == borrowed);
        known.unwrap_or_else(|| {
            self.borrowed.push(borrowed);
            self.borrowed.len() - 1
        })
    }

    /// The observed value, and another where the column can hold one.
    fn observed_and_not(&self, column: &'static Column) -> Vec<String> {
        let observed = self.domain.event_time.and_then(|event_time| event_time.observed_when);
        let observed = observed.map(|observed| observed.value);
        let mut candidates: Vec<String> = ["False", "True", "0", "1", "projected"].map(str::to_owned).to_vec();
        candidates.splice(0..0, clean_cells(column));
        let is_observed = |text: &&String| {
            let cell = Cell::Text(text.as_str().into());
            judge::cell(column, &cell, &mut Notes::default()).ok().as_ref() == observed
        };
        let first = candidates.iter().find(is_observed).cloned();
        let first = first.or(observed.map(|value| spelled(column, value.to_string()))).unwrap_or_default();
        let other = candidates.into_iter().find(|text| super::measured::is_clean(column, text) && !is_observed(&text));
        [Some(first), other].into_iter().flatten().collect()
    }

    /// Finds the column that scales another, in the row or in one that it refers to.
    fn scale(&mut self, domains: &[&'static Domain], at: usize) -> Result<()> {
        let Some(name) = self.domain.columns[at].sample.and_then(|sample: Sample| sample.scale) else { return Ok(()) };
        let scale = match self.domain.columns.iter().position(|column| column.name == name) {
            Some(own) => Some((self.domain.columns[own].cast, Scale::Own(own))),
            None => {
                let columns = |link: &Link| domains[link.shape].columns;
                let found = self.links.iter().enumerate().find_map(|(link, it)| {
                    let column = columns(it).iter().position(|column| column.name == name)?;
                    Some((columns(it)[column].cast, Borrowed { link, column }))
                });
                found.map(|(cast, borrowed)| (cast, Scale::Borrowed(self.borrow(borrowed))))
            }
        };
        let (cast, scale) = scale.with_context(|| format!("it is scaled by `{name}`, which no available row has"))?;
        ensure!(cast.is_number(), "it is scaled by `{name}`, which is not a number");
        match &mut self.columns[at].source {
            Source::Measure(measure) => measure.scale = Some(scale),
            _ => bail!("it is scaled by `{name}`, but is not a measured number itself"),
        }
        Ok(())
    }

    /// What scales another comes before it.
    fn ordered(&self) -> Result<Vec<usize>> {
        let mut order = Vec::with_capacity(self.columns.len());
        while order.len() < self.columns.len() {
            let is_ready = |at: &usize| match &self.columns[*at].source {
                Source::Measure(Measure { scale: Some(Scale::Own(own)), .. }) => order.contains(own),
                _ => true,
            };
            let next = (0..self.columns.len()).filter(|at| !order.contains(at)).find(is_ready);
            order.push(next.context("columns scale each other in a circle")?);
        }
        Ok(order)
    }

    /// Rules over two columns, which a clean row keeps to.
    fn bind(&mut self) {
        for rule in self.domain.row_rules {
            let (column, other) = (self.domain.index_of(rule.column), self.domain.index_of(rule.other));
            let is_same = matches!(self.columns[column].form, Form::Choice(_) | Form::Name);
            if is_same {
                self.columns[column].form = self.columns[other].form.clone();
            }
            self.bounds.push(Bound { column, comparison: rule.comparison, other, is_same });
        }
    }
}

/// The dimension that a column refers to, and its column there, by their places.
fn reference(domains: &[&'static Domain], column: &Column) -> Option<(usize, usize)> {
    let reference = column.references?;
    let shape = domains.iter().position(|domain| domain.name == reference.domain && domain.event_time.is_none())?;
    Some((shape, domains[shape].columns.iter().position(|other| other.name == reference.column)?))
}

/// The number of the entity, from the least that the rules allow; or its place in the list of cells.
fn entity(column: &'static Column) -> (Source, Form) {
    match column.sample.map(|sample| sample.of).filter(|of| !of.is_empty()) {
        Some(of) => (Source::Entity(0.0), Form::Choice(of.iter().map(|text| (*text).to_owned()).collect())),
        None if column.cast == Cast::Date => (Source::Entity(super::measured::DAY_2000), Form::Date),
        None if column.cast == Cast::Timestamp => {
            (Source::Entity(super::measured::DAY_2000 * 86_400.0), Form::Timestamp)
        }
        None => (Source::Entity(limits(column).0.max(1.0)), Form::Number { decimals: 0 }),
    }
}

/// Whether a column can hold the year of a projection.
fn is_year(column: &'static Column) -> bool {
    matches!(column.cast, Cast::Int | Cast::BigInt)
        && column.sample.is_none()
        && super::measured::is_clean(column, "2025")
}
