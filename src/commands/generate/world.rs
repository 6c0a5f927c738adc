//! Places, days and their weather: pure functions of (seed, locations, location, date).

use chrono::{Datelike, Days, NaiveDate};

use super::LATE_DAYS;

/// A date, with what rows of it share.
pub(super) struct Day {
    pub(super) date: NaiveDate,
    /// Days since the year 1.
    pub(super) number: u64,
    /// Day of the year from 0.
    pub(super) ordinal: f64,
    pub(super) text: String,
    /// 0 for an observed day, else how many years ahead.
    pub(super) years_ahead: u32,
    /// The cells is_projected and projection_year.
    pub(super) projected: (&'static str, String),
}

impl Day {
    pub(super) fn new(date: NaiveDate, years_ahead: u32) -> Self {
        let projected = match years_ahead {
            0 => ("False", String::new()),
            _ => ("True", format!("{}.0", date.year())),
        };
        let number = u64::try_from(date.num_days_from_ce()).unwrap_or_default();
        let text = format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day());
        Day { date, number, ordinal: f64::from(date.ordinal0()), text, years_ahead, projected }
    }

    pub(super) fn earlier(&self) -> Day {
        Day::new(self.date - Days::new(LATE_DAYS.into()), self.years_ahead)
    }

    /// What a projection adds to an observation: three in a hundred a year.
    pub(super) fn trend(&self) -> f64 {
        1.0 + 0.03 * f64::from(self.years_ahead)
    }
}

/// What everything is a function of.
#[derive(Clone, Copy)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) locations: u32,
}

impl World {
    /// Another one, for values that differ from this one's.
    pub(super) fn other(self) -> World {
        World { seed: self.seed ^ 0x5EED, ..self }
    }

    pub(super) fn place(self, id: u32) -> Place {
        let salt = mix(self.seed ^ mix(u64::from(id)));
        let mut dice = Dice(salt);
        // About 900 million people in all, shared by however many locations there are.
        let median = (9.0e8 / f64::from(self.locations)).clamp(2.0e4, 2.0e7);
        let population = (median * exp2(2.0 * dice.normal())).clamp(1_000.0, 2.4e8).round();
        Place {
            id,
            salt,
            population,
            warmth: 22.0 + 7.0 * dice.unit(),
            wetness: 0.3 + dice.unit(),
            coast: (2.0 * dice.unit() - 1.0).max(0.0),
            exposure: 0.5 + 0.5 * dice.unit(),
            wealth: 0.5 + dice.unit(),
        }
    }
}

/// A location, made anew for every row: holding them would cost memory by their number.
pub(super) struct Place {
    pub(super) id: u32,
    pub(super) salt: u64,
    pub(super) population: f64,
    /// Mean temperature, °C.
    pub(super) warmth: f64,
    pub(super) wetness: f64,
    /// 0 inland, up to 1 where cyclones land.
    pub(super) coast: f64,
    pub(super) exposure: f64,
    pub(super) wealth: f64,
}

impl Place {
    /// Noise from 0 to 1 with knots `days` apart: neighbouring days are alike.
    pub(super) fn noise(&self, stream: u64, day: u64, days: u64) -> f64 {
        let knot = |number: u64| unit(mix(self.salt ^ mix(stream << 48 ^ number)));
        let (number, offset) = (day / days, day % days);
        let along = offset as f64 / days as f64;
        let (from, to) = (knot(number), knot(number + 1));
        from + (to - from) * smooth(along)
    }
}

/// The weather of a day, on which cases and occupancy depend too.
pub(super) struct Weather {
    pub(super) temperature: f64,
    pub(super) rainfall: f64,
    pub(super) humidity: f64,
    pub(super) cyclone: f64,
    pub(super) heatwave: f64,
}

impl Weather {
    pub(super) fn at(place: &Place, day: &Day, days_before: u32) -> Weather {
        let number = day.number.saturating_sub(days_before.into());
        let ordinal = day.ordinal - f64::from(days_before);
        let monsoon = season(ordinal, 218.0, 85.0);
        let heat = season(ordinal, 138.0, 75.0);
        let winter = season(ordinal, 5.0, 80.0);
        let storms = season(ordinal, 300.0, 60.0) + 0.5 * season(ordinal, 135.0, 40.0);
        let wet = place.noise(1, number, 5);
        let jitter = unit(mix(place.salt ^ mix(1 << 60 ^ number)));
        let warm = place.noise(2, number, 9) - 0.5;
        let rainfall = (12.0 + 420.0 * monsoon * place.wetness) * wet * (0.6 + 0.8 * jitter);
        let temperature =
            place.warmth + 11.0 * heat - 9.0 * winter - 2.0 * monsoon * wet + 5.0 * warm + 1.5 * (jitter - 0.5);
        Weather {
            temperature: temperature.clamp(1.0, 49.0),
            rainfall: rainfall.min(600.0),
            humidity: (42.0 + 38.0 * monsoon + 18.0 * wet - 12.0 * heat).clamp(8.0, 99.0),
            cyclone: (place.coast * storms * 1.4 * (place.noise(3, number, 6) - 0.4).max(0.0)).clamp(0.0, 1.0),
            heatwave: ((temperature - 35.0) / 9.0).clamp(0.0, 1.0),
        }
    }
}

/// How much of a season a day of the year is in: 1 at its height, 0 beyond half its length.
fn season(ordinal: f64, height: f64, half_days: f64) -> f64 {
    let apart = (ordinal - height).abs() % 365.0;
    smooth((1.0 - apart.min(365.0 - apart) / half_days).max(0.0))
}

fn smooth(along: f64) -> f64 {
    along * along * (3.0 - 2.0 * along)
}

/// 2 to the power of `x`, within half a percent.
pub(super) fn exp2(x: f64) -> f64 {
    let whole = x.floor();
    let rest = x - whole;
    2.0_f64.powi(whole as i32) * (1.0 + rest * (0.6565 + 0.3435 * rest))
}

const SYLLABLES: [&str; 24] = [
    "Ka", "Ra", "Ma", "Su", "Vi", "Ban", "Chan", "Dha", "Gan", "Har", "Jal", "Ko", "Lak", "Mir", "Na", "Pal", "Ram",
    "Sha", "Tal", "Ud", "Var", "Ya", "An", "Bel",
];
const MIDDLES: [&str; 12] = ["ra", "ni", "li", "ma", "ta", "va", "ri", "da", "hi", "no", "ku", "sa"];
const ENDINGS: [&str; 12] =
    ["pur", "garh", "abad", "nagar", "kot", "wadi", "desh", "giri", "patnam", "gaon", "khand", "oor"];

pub(super) fn place_name(dice: &mut Dice) -> String {
    let name = format!("{}{}{}", dice.pick(&SYLLABLES), dice.pick(&MIDDLES), dice.pick(&ENDINGS));
    match dice.next() % 8 {
        0 => format!("North {name}"),
        1 => format!("South {name}"),
        _ => name,
    }
}

/// Random numbers in a row from one state (splitmix64, Steele, Lea and Flood 2014).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn of(parts: &[u64]) -> Self {
        Dice(parts.iter().fold(0, |state, part| mix(state ^ *part)))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// 0 up to but not including 1.
    pub(super) fn unit(&mut self) -> f64 {
        unit(self.next())
    }

    pub(super) fn hits(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Mean 0, deviation 1, near enough: the sum of four, which never leaves ±3.5.
    pub(super) fn normal(&mut self) -> f64 {
        ((0..4).map(|_| self.unit()).sum::<f64>() - 2.0) * 1.732
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(GOLDEN);
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
