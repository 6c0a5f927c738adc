//! Fills the cells of a row for an entity and a day. A value is a pure function of (seed, entities, entity, day), so
//! that only data shared by the rows of a day is stored.

use chrono::NaiveDate;
use freshet_topics::Comparison;

use super::day::{Day, spelled};
use super::files::Row;
use super::measured::DAY_2000;
use super::random::{Dice, mix, name, season, smooth, unit};
use super::shape::{Filled, Form, Measure, Scale, Shape, Source};

/// What everything is a function of.
pub(super) struct World<'a> {
    pub(super) seed: u64,
    pub(super) entities: u32,
    /// Of all domains: rows refer to one another.
    pub(super) shapes: &'a [Shape],
}

/// What the rows of a domain on one day share.
pub(super) struct Today {
    pub(super) day: Day,
    /// One a column.
    moments: Vec<Moment>,
    salt: u64,
}

/// Where the noise of a column is on a day: between two knots, which are some days apart.
#[derive(Clone, Copy)]
struct Moment {
    from: u64,
    to: u64,
    along: f64,
    /// How much of its season the day is in; 1 where there is none.
    season: f64,
}

/// A row's numbers, in buffers that are used again.
#[derive(Default)]
pub(super) struct Scratch {
    numbers: Vec<f64>,
    borrowed: Vec<f64>,
}

/// Which row of an entity and a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    First,
    /// The same key, other values.
    Again,
}

/// Tells the values of a row that comes again.
const AGAIN: u64 = 0x5EED;
/// What a projection adds to an observation a year, as a share of what is left up to the greatest.
const TREND: f64 = 0.03;
const SECONDS_A_DAY: f64 = 86_400.0;
const TEN_TO: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

impl Today {
    /// For the rows of a fact.
    pub(super) fn new(shape: &Shape, day: Day) -> Today {
        let moments = shape.columns.iter().map(|column| Moment::on(column, &day)).collect();
        Today { moments, salt: mix(day.number), day }
    }

    /// For the rows of a dimension, which are those of any day.
    pub(super) fn any(shape: &Shape, day: Day) -> Today {
        Today { moments: shape.columns.iter().map(Moment::still).collect(), salt: 0, day }
    }
}

impl Moment {
    fn on(column: &Filled, day: &Day) -> Moment {
        let knot = |number: u64| mix(column.salt ^ mix(number));
        let Source::Measure(measure) = &column.source else {
            return Moment { from: knot(day.number), ..Moment::still(column) };
        };
        let (number, offset) = (day.number / measure.persistence_days, day.number % measure.persistence_days);
        let along = smooth(offset as f64 / measure.persistence_days as f64);
        let season = measure
            .season
            .map_or(1.0, |times| season(day.ordinal, f64::from(times.peak_day) - 1.0, f64::from(times.days) / 2.0));
        Moment { from: knot(number), to: knot(number + 1), along, season }
    }

    fn still(column: &Filled) -> Moment {
        Moment { from: mix(column.salt), to: 0, along: 0.0, season: 1.0 }
    }

    /// 0 up to but not including 1.
    fn noise(&self, salt: u64) -> f64 {
        let from = unit(mix(salt ^ self.from));
        match self.along > 0.0 {
            true => from + (unit(mix(salt ^ self.to)) - from) * self.along,
            false => from,
        }
    }
}

impl World<'_> {
    /// Tells the chances of an entity from the others'.
    fn salt(&self, entity: u32) -> u64 {
        mix(self.seed ^ mix(u64::from(entity)))
    }

    /// Fills the cells of a row.
    pub(super) fn fill(
        &self,
        shape: &Shape,
        row: &mut Row,
        scratch: &mut Scratch,
        entity: u32,
        today: &Today,
        take: Take,
    ) {
        let salt = self.salt(entity);
        let Scratch { numbers, borrowed } = scratch;
        borrowed.clear();
        borrowed.extend(shape.borrowed.iter().map(|from| {
            let link = &shape.links[from.link];
            self.borrowed(link.shape, from.column, self.linked(link.salt, salt ^ today.salt, entity))
        }));
        numbers.clear();
        numbers.resize(shape.columns.len(), f64::NAN);
        for at in &shape.order {
            let column = &shape.columns[*at];
            let salt = if take == Take::Again && !column.is_key { salt ^ AGAIN } else { salt };
            let scale = match &column.source {
                Source::Borrowed(index) => borrowed[*index],
                Source::Measure(Measure { scale: Some(Scale::Own(own)), .. }) => numbers[*own],
                Source::Measure(Measure { scale: Some(Scale::Borrowed(index)), .. }) => borrowed[*index],
                _ => 1.0,
            };
            numbers[*at] = self.number(column, &today.moments[*at], Some(&today.day), salt, entity, scale);
        }
        for bound in &shape.bounds {
            let (value, other) = (numbers[bound.column], numbers[bound.other]);
            let holds = match bound.comparison {
                Comparison::AtMost => value <= other,
                Comparison::AtLeast => value >= other,
            };
            if bound.is_same || !holds {
                numbers[bound.column] = other;
            }
        }
        row.clear();
        for ((filled, column), number) in shape.columns.iter().zip(shape.domain.columns).zip(numbers) {
            let point = if column.decimal_comma { b',' } else { b'.' };
            write(&filled.form, *number, today, point, row);
        }
    }

    /// The entity that a row refers to: its own, or one by chance.
    fn linked(&self, link: Option<u64>, salt: u64, entity: u32) -> u32 {
        match link {
            None => entity,
            Some(link) => (mix(salt ^ link) % u64::from(self.entities)) as u32 + 1,
        }
    }

    /// A number of a dimension's row. That it comes to an end was checked with the shapes.
    fn borrowed(&self, shape: usize, column: usize, entity: u32) -> f64 {
        let Shape { columns, links, borrowed, .. } = &self.shapes[shape];
        let salt = self.salt(entity);
        let follow = |index: usize| {
            let link = &links[borrowed[index].link];
            self.borrowed(link.shape, borrowed[index].column, self.linked(link.salt, salt, entity))
        };
        let filled = &columns[column];
        let scale = match &filled.source {
            Source::Borrowed(index) => follow(*index),
            Source::Measure(Measure { scale: Some(Scale::Borrowed(index)), .. }) => follow(*index),
            Source::Measure(Measure { scale: Some(Scale::Own(own)), .. }) => self.borrowed(shape, *own, entity),
            _ => 1.0,
        };
        self.number(filled, &Moment::still(filled), None, salt, entity, scale)
    }

    /// The number of a column. `scale` is what it is multiplied by, or what it is where it is borrowed.
    fn number(&self, column: &Filled, moment: &Moment, day: Option<&Day>, salt: u64, entity: u32, scale: f64) -> f64 {
        let of_day = |number: fn(&Day) -> f64| day.map_or(f64::NAN, number);
        let years_ahead = day.map_or(0, |day| day.years_ahead);
        match &column.source {
            Source::Entity(first) => first + f64::from(entity - 1),
            Source::Borrowed(_) => scale,
            Source::Serial => (of_day(Day::as_number) - DAY_2000) * f64::from(self.entities) + f64::from(entity),
            Source::Day => of_day(Day::as_number),
            Source::Projected => f64::from(u8::from(years_ahead > 0)),
            Source::Year { observed } if *observed || years_ahead > 0 => of_day(Day::year),
            Source::Year { .. } => f64::NAN,
            Source::Pick(of) => (moment.noise(salt) * *of as f64).floor(),
            Source::Near { a_day, away, limits: (least, greatest) } => {
                let near = of_day(Day::as_number) * a_day + (away * moment.noise(salt)).floor();
                near.max(*least).min(*greatest)
            }
            Source::Measure(measure) => measured(measure, moment, day, salt, scale),
        }
    }
}

fn measured(measure: &Measure, moment: &Moment, day: Option<&Day>, salt: u64, scale: f64) -> f64 {
    let noise = moment.noise(salt);
    let mut share = match (measure.season, measure.refill_days, day) {
        // Each entity is filled up on a day of its own.
        (_, Some(days), Some(day)) => 1.0 - ((day.number + salt % days) % days) as f64 / days as f64,
        (Some(_), ..) => moment.season * (0.55 + 0.45 * noise) + (1.0 - moment.season) * 0.3 * noise,
        _ => noise,
    };
    let years_ahead = day.map_or(0, |day| day.years_ahead);
    if years_ahead > 0 {
        share += (1.0 - share) * (TREND * f64::from(years_ahead)).min(1.0);
    }
    let mut skewed = share;
    for _ in 1..measure.skew {
        skewed *= share;
    }
    let value = (measure.least + (measure.greatest - measure.least) * skewed) * scale;
    let (least, greatest) = measure.limits;
    let ten_to = TEN_TO[usize::from(measure.decimals)];
    let rounded = (value.max(least).min(greatest) * ten_to).round() / ten_to;
    match measure.missing.contains(&rounded) {
        false => rounded,
        true if rounded < greatest => rounded + 1.0 / ten_to,
        true => rounded - 1.0 / ten_to,
    }
}

/// Writes a number as a cell, with this decimal sign; one that is none as an empty one.
fn write(form: &Form, number: f64, today: &Today, point: u8, row: &mut Row) {
    let date = |days: f64| NaiveDate::from_num_days_from_ce_opt(days as i32).unwrap_or_default();
    match form {
        _ if number.is_nan() => row.plain(""),
        Form::Number { decimals: 0 } => row.whole(number),
        Form::Number { decimals } => row.fixed(number, TEN_TO[usize::from(*decimals)], point),
        Form::Date if number == today.day.as_number() => row.plain(&today.day.text),
        Form::Date => row.plain(&spelled(date(number))),
        Form::Timestamp => {
            let (days, seconds) = ((number / SECONDS_A_DAY).floor(), number % SECONDS_A_DAY);
            let (hours, minutes) = ((seconds / 3600.0).floor(), (seconds % 3600.0 / 60.0).floor());
            let day = spelled(date(days));
            row.text(&format!("{day}T{hours:02}:{minutes:02}:{:02}Z", seconds % 60.0));
        }
        Form::Choice(texts) => row.text(texts.get(number as usize).map_or("", String::as_str)),
        Form::Name => row.text(&name(&mut Dice::of(&[number as u64]))),
    }
}
