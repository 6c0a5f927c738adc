//! The four shapes: columns in the order and spelling of the source's files, and how a row of each is filled.

use super::defects::{self, Defect};
use super::files::Row;
use super::world::{Day, Dice, Place, Weather, World, exp2, place_name};

/// What one domain's files look like.
pub(super) struct Shape {
    pub(super) domain: &'static str,
    /// Tells the domain's dice from the others'.
    pub(super) salt: u64,
    /// One row a location and day, or one row a location.
    pub(super) dated: bool,
    /// Columns in the order and spelling of the source's files.
    pub(super) header: &'static [&'static str],
    pub(super) fill: fn(&mut Row, World, &Place, &Day),
    pub(super) defects: &'static [Defect],
}

impl Shape {
    pub(super) fn index_of(&self, column: &str) -> Option<usize> {
        self.header.iter().position(|name| *name == column)
    }
}

pub(super) static SHAPES: [Shape; 4] = [
    Shape {
        domain: "locations",
        salt: 1,
        dated: false,
        header: &["name", "type", "population", "area", "id"],
        fill: fill_location,
        defects: defects::LOCATIONS,
    },
    Shape {
        domain: "climate",
        salt: 2,
        dated: true,
        header: &[
            "location_id",
            "date",
            "temperature",
            "rainfall",
            "humidity",
            "flood_probability",
            "cyclone_probability",
            "heatwave_probability",
            "is_projected",
            "projection_year",
        ],
        fill: fill_climate,
        defects: defects::CLIMATE,
    },
    Shape {
        domain: "health",
        salt: 3,
        dated: true,
        header: &[
            "location_id",
            "date",
            "dengue_cases",
            "malaria_cases",
            "heatstroke_cases",
            "diarrhea_cases",
            "is_projected",
            "projection_year",
        ],
        fill: fill_health,
        defects: defects::HEALTH,
    },
    Shape {
        domain: "hospital",
        salt: 4,
        dated: true,
        header: &[
            "location_id",
            "date",
            "total_beds",
            "available_beds",
            "doctors",
            "nurses",
            "iv_fluids_stock",
            "antibiotics_stock",
            "antipyretics_stock",
            "is_projected",
            "projection_year",
        ],
        fill: fill_hospital,
        defects: defects::HOSPITAL,
    },
];

fn fill_location(row: &mut Row, _world: World, place: &Place, _day: &Day) {
    let mut dice = Dice::of(&[place.salt, 9]);
    row.text(&place_name(&mut dice));
    row.text(if place.population < 2.0e6 && dice.hits(0.6) { "union_territory" } else { "state" });
    row.int(place.population);
    // People per square kilometre, log-normal around 350.
    row.int((place.population / (350.0 * exp2(1.4 * dice.normal()))).max(20.0));
    row.int(place.id.into());
}

fn fill_climate(row: &mut Row, _world: World, place: &Place, day: &Day) {
    let weather = Weather::at(place, day, 0);
    row.int(place.id.into());
    row.text(&day.text);
    row.fixed(weather.temperature + 0.2 * f64::from(day.years_ahead), 10);
    row.fixed(weather.rainfall * day.trend(), 10);
    row.fixed(weather.humidity, 10);
    row.fixed(((weather.rainfall * day.trend() - 60.0) / 360.0).clamp(0.0, 1.0), 1000);
    row.fixed(weather.cyclone, 1000);
    row.fixed(weather.heatwave, 1000);
    row.projection(day);
}

fn fill_health(row: &mut Row, world: World, place: &Place, day: &Day) {
    // Mosquitoes breed in the rain of two weeks before.
    let before = Weather::at(place, day, 14);
    let today = Weather::at(place, day, 0);
    let mut dice = Dice::of(&[world.seed, 3, place.salt, day.number]);
    let wet = (before.rainfall / 220.0).min(2.0);
    let per_100k = |rate: f64, jitter: f64| rate * (0.8 + 0.4 * jitter) * day.trend() * place.population / 1.0e5;
    row.int(place.id.into());
    row.text(&day.text);
    row.int(per_100k((0.4 + 9.0 * wet) * place.exposure, dice.unit()));
    row.int(per_100k((0.8 + 7.0 * wet) * (1.5 - place.exposure), dice.unit()));
    row.int(per_100k(3.0 * today.heatwave, dice.unit()));
    row.int(per_100k(18.0 + 14.0 * wet + 5.0 * today.heatwave, dice.unit()));
    row.projection(day);
}

fn fill_hospital(row: &mut Row, world: World, place: &Place, day: &Day) {
    let mut dice = Dice::of(&[world.seed, 4, place.salt, day.number]);
    let wet = (Weather::at(place, day, 10).rainfall / 220.0).min(2.0);
    let per_100k = |rate: f64| rate * place.wealth * place.population / 1.0e5;
    let beds = per_100k(190.0) * (0.97 + 0.06 * dice.unit());
    let occupancy = (0.14 + 0.2 * wet + 0.15 * place.noise(7, day.number, 16) * day.trend()).clamp(0.02, 0.97);
    row.int(place.id.into());
    row.text(&day.text);
    row.int(beds);
    row.int((beds * (1.0 - occupancy)).floor());
    row.int(per_100k(70.0) * (0.9 + 0.2 * dice.unit()));
    row.int(per_100k(195.0) * (0.9 + 0.2 * dice.unit()));
    row.int(per_100k(9.0) * stock_left(place, day, 11));
    row.int(per_100k(6.0) * stock_left(place, day, 17));
    // The source writes this one stock as a float.
    row.fixed((per_100k(4.0) * stock_left(place, day, 23)).floor(), 10);
    row.projection(day);
}

/// A stock is filled up every `period` days, each place on a day of its own, and used up until then.
fn stock_left(place: &Place, day: &Day, period: u64) -> f64 {
    let into = (day.number + place.salt % period) % period;
    1.0 - f64::from(u32::try_from(into).unwrap_or_default()) / f64::from(u32::try_from(period).unwrap_or(1))
}
