//! The aggregates of a window, per location and for all together, added up row by row.
//!
//! Rows come sorted by location and date, a domain after the other, so that sums are made in a fixed order and
//! give the same bytes every time. A mean, greatest, least or sum skips NULL; of nothing it is NULL. NaN in,
//! NaN out.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use freshet_topics::window::Window;

use super::format::Cell;
use crate::derive::{self, Cases, HealthRisk};

/// What a location is called and how many live there.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) name: Box<str>,
    pub(super) population: Option<i32>,
}

/// The locations that are known, by id.
pub(super) type Locations = BTreeMap<i32, Location>;

/// The measures of a climate row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Climate {
    pub(super) temperature: Option<f64>,
    pub(super) rainfall: Option<f64>,
    pub(super) flood_probability: Option<f64>,
    pub(super) cyclone_probability: Option<f64>,
    pub(super) heatwave_probability: Option<f64>,
}

/// A window's aggregates so far.
pub(super) struct Aggregates {
    window: Window,
    places: BTreeMap<i32, Place>,
    all: Place,
}

/// The aggregates of one location, or of all together.
#[derive(Debug, Clone, Default)]
struct Place {
    /// Bit n: there is a row n days after the window's start. A window has 31 days at most.
    days: u32,
    cases: Cases,
    temperature: Mean,
    temperature_max: Option<f64>,
    rainfall_sum: Option<f64>,
    flood_probability_max: Option<f64>,
    cyclone_probability_max: Option<f64>,
    heatwave_probability_max: Option<f64>,
    occupancy: Mean,
    beds_available_min: Option<i64>,
    overall_risk: Mean,
    resource_score: Mean,
    resilience_score_min: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Aggregates {
    pub(super) fn new(window: Window) -> Self {
        Aggregates { window, places: BTreeMap::new(), all: Place::default() }
    }

    pub(super) fn climate(&mut self, location: i32, date: NaiveDate, row: &Climate) {
        self.each(location, date, |place| {
            place.temperature.add(row.temperature);
            fold(&mut place.temperature_max, row.temperature, derive::greatest);
            fold(&mut place.rainfall_sum, row.rainfall, |sum, rainfall| sum + rainfall);
            fold(&mut place.flood_probability_max, row.flood_probability, derive::greatest);
            fold(&mut place.cyclone_probability_max, row.cyclone_probability, derive::greatest);
            fold(&mut place.heatwave_probability_max, row.heatwave_probability, derive::greatest);
        });
    }

    pub(super) fn health(&mut self, location: i32, date: NaiveDate, cases: Cases, risk: &HealthRisk) {
        self.each(location, date, |place| {
            for (sum, cases) in place.cases.iter_mut().zip(cases) {
                fold(sum, cases, |sum, cases| sum + cases);
            }
            place.overall_risk.add(risk.overall);
        });
    }

    pub(super) fn hospital(
        &mut self,
        location: i32,
        date: NaiveDate,
        total_beds: Option<i64>,
        available_beds: Option<i64>,
        resource_score: Option<f64>,
    ) {
        self.each(location, date, |place| {
            place.occupancy.add(derive::occupancy(total_beds, available_beds));
            fold(&mut place.beds_available_min, available_beds, i64::min);
            place.resource_score.add(resource_score);
        });
    }

    pub(super) fn resilience(&mut self, location: i32, date: NaiveDate, score: Option<f64>) {
        self.each(location, date, |place| fold(&mut place.resilience_score_min, score, derive::least));
    }

    /// The rows of the output: all together first, then by location; none where the window has no rows.
    pub(super) fn rows<'a>(
        &'a self,
        locations: &'a Locations,
        is_final: bool,
    ) -> impl Iterator<Item = Vec<Cell<'a>>> + 'a {
        let places = self.places.iter().filter_map(move |(id, place)| Some((*id, place, locations.get(id)?)));
        let populations = self.places.keys().filter_map(|id| locations.get(id)?.population).map(i64::from);
        let everybody = populations.reduce(|sum, population| sum + population);
        let all = (!self.places.is_empty()).then(|| self.row(None, &self.all, everybody, is_final));
        all.into_iter().chain(places.map(move |(id, place, location)| {
            self.row(Some((id, location)), place, location.population.map(i64::from), is_final)
        }))
    }

    fn each(&mut self, location: i32, date: NaiveDate, add: impl Fn(&mut Place)) {
        let day = 1_u32 << (date - self.window.start).num_days();
        for place in [self.places.entry(location).or_default(), &mut self.all] {
            place.days |= day;
            add(place);
        }
    }

    fn row<'a>(
        &self,
        location: Option<(i32, &'a Location)>,
        place: &Place,
        population: Option<i64>,
        is_final: bool,
    ) -> Vec<Cell<'a>> {
        let mut cells = vec![
            Cell::Text(self.window.kind.name()),
            Cell::Date(self.window.start),
            Cell::Date(self.window.end()),
            location.map_or(Cell::Null, |(id, _)| Cell::Int(id.into())),
            location.map_or(Cell::Null, |(_, location)| Cell::Text(&location.name)),
            Cell::Int(place.days.count_ones().into()),
        ];
        cells.extend(place.cases.map(Cell::from));
        cells.extend(place.cases.map(|cases| Cell::from(derive::rate(cases, population))));
        cells.extend([
            place.temperature.value().into(),
            place.temperature_max.into(),
            place.rainfall_sum.into(),
            place.flood_probability_max.into(),
            place.cyclone_probability_max.into(),
            place.heatwave_probability_max.into(),
            place.occupancy.value().into(),
            place.beds_available_min.into(),
            place.overall_risk.value().into(),
            place.resource_score.value().into(),
            place.resilience_score_min.into(),
            Cell::Bool(is_final),
        ]);
        cells
    }
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

fn fold<T: Copy>(so_far: &mut Option<T>, value: Option<T>, join: impl Fn(T, T) -> T) {
    *so_far = match (*so_far, value) {
        (Some(so_far), Some(value)) => Some(join(so_far, value)),
        (one, other) => one.or(other),
    };
}

#[cfg(test)]
mod tests {
    use freshet_topics::window::WindowKind;

    use super::*;
    use crate::refresh::schema::columns;
    use crate::windows::Output;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    fn locations() -> Locations {
        let location = |name: &str, population| Location { name: name.into(), population };
        BTreeMap::from([
            (1, location("one", Some(100_000))),
            (2, location("two", None)),
            (3, location("three", Some(0))),
        ])
    }

    /// The named cell of a row, as text.
    fn cell(row: &[Cell<'_>], column: &str) -> String {
        let columns = columns(Output::WindowMetrics);
        assert_eq!(row.len(), columns.len());
        format!("{:?}", row[columns.iter().position(|(name, _)| *name == column).expect("a column")])
    }

    #[test]
    fn a_window_adds_up_per_location_and_for_all_together() {
        let window = Window::containing(WindowKind::Week, date("2025-09-15"));
        let mut aggregates = Aggregates::new(window);
        let climate = |temperature, rainfall| Climate {
            temperature: Some(temperature),
            rainfall,
            flood_probability: None,
            cyclone_probability: Some(0.5),
            heatwave_probability: Some(0.0),
        };
        aggregates.climate(1, date("2025-09-15"), &climate(20.0, Some(1.5)));
        aggregates.climate(1, date("2025-09-16"), &climate(30.0, None));
        aggregates.climate(2, date("2025-09-21"), &climate(40.0, Some(0.25)));
        let cases = [Some(10), None, Some(0), Some(i64::from(i32::MAX))];
        let risk = derive::health_risk(cases, Some(100_000));
        aggregates.health(1, date("2025-09-15"), cases, &risk);
        aggregates.health(1, date("2025-09-17"), cases, &risk);
        aggregates.hospital(1, date("2025-09-15"), Some(100), Some(25), Some(50.0));
        aggregates.hospital(1, date("2025-09-16"), Some(0), Some(0), None);
        aggregates.resilience(1, date("2025-09-15"), Some(80.0));
        aggregates.resilience(1, date("2025-09-15"), Some(70.0));
        let locations = locations();
        let rows: Vec<_> = aggregates.rows(&locations, true).collect();
        let expected: &[(&str, [&str; 3])] = &[
            ("location_id", ["Null", "Int(1)", "Int(2)"]),
            ("location_name", ["Null", "Text(\"one\")", "Text(\"two\")"]),
            ("window_end", ["Date(2025-09-22)", "Date(2025-09-22)", "Date(2025-09-22)"]),
            ("days", ["Int(4)", "Int(3)", "Int(1)"]),
            ("dengue_cases", ["Int(20)", "Int(20)", "Null"]),
            ("malaria_cases", ["Null", "Null", "Null"]),
            ("diarrhea_cases", ["Int(4294967294)", "Int(4294967294)", "Null"]),
            ("dengue_rate", ["Double(20.0)", "Double(20.0)", "Null"]),
            ("temperature_mean", ["Double(30.0)", "Double(25.0)", "Double(40.0)"]),
            ("temperature_max", ["Double(40.0)", "Double(30.0)", "Double(40.0)"]),
            ("rainfall_sum", ["Double(1.75)", "Double(1.5)", "Double(0.25)"]),
            ("flood_probability_max", ["Null", "Null", "Null"]),
            ("cyclone_probability_max", ["Double(0.5)", "Double(0.5)", "Double(0.5)"]),
            ("occupancy_mean", ["Double(0.75)", "Double(0.75)", "Null"]),
            ("beds_available_min", ["Int(0)", "Int(0)", "Null"]),
            ("overall_risk_mean", ["Null", "Null", "Null"]),
            ("resource_score_mean", ["Double(50.0)", "Double(50.0)", "Null"]),
            ("resilience_score_min", ["Double(70.0)", "Double(70.0)", "Null"]),
            ("final", ["Bool(true)", "Bool(true)", "Bool(true)"]),
        ];
        assert_eq!(rows.len(), 3);
        for (column, values) in expected {
            let found: Vec<String> = rows.iter().map(|row| cell(row, column)).collect();
            assert_eq!(found, *values, "{column}");
        }
    }

    #[test]
    fn a_window_without_rows_has_none_and_one_where_nobody_lives_has_no_rates() {
        let window = Window::containing(WindowKind::Month, date("2025-09-15"));
        let mut aggregates = Aggregates::new(window);
        let locations = locations();
        assert_eq!(aggregates.rows(&locations, false).count(), 0);
        aggregates.health(3, date("2025-09-30"), [Some(1); 4], &HealthRisk::default());
        let rows: Vec<_> = aggregates.rows(&locations, false).collect();
        for row in &rows {
            assert_eq!((cell(row, "dengue_cases"), cell(row, "dengue_rate")), ("Int(1)".into(), "Null".into()));
        }
    }
}
