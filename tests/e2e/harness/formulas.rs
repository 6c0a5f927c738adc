//! The derived outputs computed once more from the tables: the documented formulas, written again, over whole
//! tables in memory. Sums are made in the order (location, date, projection year), as documented.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, Days, Months, NaiveDate, Utc};
use sqlx::PgPool;

use super::plain::{NULL, number};

pub(crate) const OUTPUTS: [&str; 4] =
    ["current_health_risks", "current_hospital_resources", "resilience_scores", "window_metrics"];

/// The columns, in order.
pub(crate) fn columns(output: &str) -> Vec<&'static str> {
    let text = match output {
        "current_health_risks" => {
            "id location_id date dengue_cases malaria_cases heatstroke_cases diarrhea_cases is_projected projection_year \
             location_name population dengue_rate malaria_rate heatstroke_rate diarrhea_rate dengue_risk malaria_risk \
             heatstroke_risk diarrhea_risk overall_risk"
        }
        "current_hospital_resources" => {
            "id location_id date total_beds available_beds doctors nurses iv_fluids_stock antibiotics_stock \
             antipyretics_stock is_projected projection_year location_name population beds_per_100k \
             available_beds_per_100k doctors_per_100k nurses_per_100k beds_score doctor_score nurse_score resource_score"
        }
        "resilience_scores" => "location_id date location_name overall_risk resource_score resilience_score",
        "window_metrics" => {
            "window_kind window_start window_end location_id location_name days dengue_cases malaria_cases \
             heatstroke_cases diarrhea_cases dengue_rate malaria_rate heatstroke_rate diarrhea_rate temperature_mean \
             temperature_max rainfall_sum flood_probability_max cyclone_probability_max heatwave_probability_max \
             occupancy_mean beds_available_min overall_risk_mean resource_score_mean resilience_score_min final"
        }
        other => panic!("no output {other}"),
    };
    text.split_whitespace().collect()
}

/// (output, window kind, window start) → rows of text. A window without rows is not there.
pub(crate) type Derived = BTreeMap<(String, String, NaiveDate), Vec<Vec<String>>>;

type Location = (i32, String, Option<i32>);
type Climate = (i32, NaiveDate, Option<f64>, Option<f64>, Option<f64>, Option<f64>, Option<f64>);
type Health = (i64, i32, NaiveDate, Option<i32>, Option<i32>, Option<i32>, Option<i32>, Option<i32>);
type Hospital = (i64, i32, NaiveDate, Vec<Option<i32>>, Option<i32>);

/// Everything that the outputs are made of.
pub(crate) struct Tables {
    locations: BTreeMap<i32, Location>,
    climate: Vec<Climate>,
    health: Vec<Health>,
    hospital: Vec<Hospital>,
    watermark: Option<NaiveDate>,
}

impl Tables {
    pub(crate) async fn read(pool: &PgPool) -> Tables {
        let order = "WHERE NOT is_projected ORDER BY location_id, date, projection_year NULLS FIRST";
        let climate = format!(
            "SELECT location_id, date, temperature, rainfall, flood_probability, cyclone_probability, heatwave_probability
             FROM climate_data {order}"
        );
        let health = format!(
            "SELECT id, location_id, date, dengue_cases, malaria_cases, heatstroke_cases, diarrhea_cases, projection_year
             FROM health_data {order}"
        );
        let hospital = format!(
            "SELECT id, location_id, date, ARRAY[total_beds, available_beds, doctors, nurses, iv_fluids_stock,
                antibiotics_stock, antipyretics_stock], projection_year FROM hospital_data {order}"
        );
        let locations: Vec<Location> =
            sqlx::query_as("SELECT id, name, population FROM locations").fetch_all(pool).await.expect("locations");
        let climate: Vec<Climate> =
            sqlx::query_as(sqlx::AssertSqlSafe(climate)).fetch_all(pool).await.expect("climate");
        let health: Vec<Health> = sqlx::query_as(sqlx::AssertSqlSafe(health)).fetch_all(pool).await.expect("health");
        let hospital: Vec<Hospital> =
            sqlx::query_as(sqlx::AssertSqlSafe(hospital)).fetch_all(pool).await.expect("hospital");
        let latest = Utc::now().date_naive() + Days::new(1);
        let newest = |dates: Vec<NaiveDate>| dates.into_iter().filter(|date| *date <= latest).max();
        let watermarks = [
            newest(climate.iter().map(|row| row.1).collect()),
            newest(health.iter().map(|row| row.2).collect()),
            newest(hospital.iter().map(|row| row.2).collect()),
        ];
        let watermark = watermarks.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min());
        let locations: BTreeMap<i32, Location> = locations.into_iter().map(|row| (row.0, row)).collect();
        let known = |id: i32| locations.contains_key(&id);
        Tables {
            climate: climate.into_iter().filter(|row| known(row.0)).collect(),
            health: health.into_iter().filter(|row| known(row.1)).collect(),
            hospital: hospital.into_iter().filter(|row| known(row.1)).collect(),
            locations,
            watermark,
        }
    }

    /// All outputs.
    pub(crate) fn derive(&self, allowed_lateness_days: u64) -> Derived {
        let mut derived = Derived::new();
        for row in &self.health {
            let rows = derived.entry(("current_health_risks".into(), "month".into(), month(row.2))).or_default();
            rows.push(self.health_row(row));
        }
        for row in &self.hospital {
            let rows = derived.entry(("current_hospital_resources".into(), "month".into(), month(row.2))).or_default();
            rows.push(self.hospital_row(row));
        }
        for (location, date, risk, resources, resilience) in self.resilience() {
            let rows = derived.entry(("resilience_scores".into(), "month".into(), month(date))).or_default();
            let name = self.locations[&location].1.clone();
            rows.push(vec![
                location.to_string(),
                date.to_string(),
                name,
                text(risk),
                text(resources),
                text(resilience),
            ]);
        }
        for kind in ["week", "month"] {
            let start = if kind == "week" { week } else { month };
            let dates = self.climate.iter().map(|row| row.1).chain(self.health.iter().map(|row| row.2));
            let starts: BTreeSet<NaiveDate> = dates.chain(self.hospital.iter().map(|row| row.2)).map(start).collect();
            for from in starts {
                let to = if kind == "week" { from + Days::new(7) } else { from + Months::new(1) };
                let closed = self.watermark.is_some_and(|watermark| watermark >= to + Days::new(allowed_lateness_days));
                let rows = self.window_rows(kind, from, to, closed);
                derived.insert(("window_metrics".into(), kind.into(), from), rows);
            }
        }
        derived
    }

    fn population(&self, location: i32) -> Option<f64> {
        self.locations[&location].2.map(f64::from)
    }

    fn health_row(&self, row: &Health) -> Vec<String> {
        let (id, location, date, dengue, malaria, heatstroke, diarrhea, year) = row;
        let cases = [dengue, malaria, heatstroke, diarrhea];
        let (_, name, population) = &self.locations[location];
        let mut cells = vec![id.to_string(), location.to_string(), date.to_string()];
        cells.extend(cases.map(|cases| text(*cases)));
        cells.extend(["false".into(), text(*year), name.clone(), text(*population)]);
        let (rates, risks, overall) = self.risks(row);
        cells.extend(rates.map(text));
        cells.extend(risks.map(text));
        cells.push(text(overall));
        cells
    }

    fn risks(&self, row: &Health) -> ([Option<f64>; 4], [Option<f64>; 4], Option<f64>) {
        let rates = [row.3, row.4, row.5, row.6].map(|cases| per_100k(cases.map(f64::from), self.population(row.1)));
        let mut risks = [None; 4];
        for (at, divisor) in [5.0, 3.0, 4.0, 6.0].into_iter().enumerate() {
            risks[at] = rates[at].map(|rate| f64::min(rate / divisor, 100.0));
        }
        let overall = match risks {
            [Some(a), Some(b), Some(c), Some(d)] => Some(0.25 * a + 0.25 * b + 0.25 * c + 0.25 * d),
            _ => None,
        };
        (rates, risks, overall)
    }

    fn hospital_row(&self, row: &Hospital) -> Vec<String> {
        let (id, location, date, counts, year) = row;
        let (_, name, population) = &self.locations[location];
        let mut cells = vec![id.to_string(), location.to_string(), date.to_string()];
        cells.extend(counts.iter().map(|count| text(*count)));
        cells.extend(["false".into(), text(*year), name.clone(), text(*population)]);
        cells.extend(self.scores(row).map(text));
        cells
    }

    fn scores(&self, row: &Hospital) -> [Option<f64>; 8] {
        let rate = |at: usize| per_100k(row.3[at].map(f64::from), self.population(row.1));
        let (beds, available, doctors, nurses) = (rate(0), rate(1), rate(2), rate(3));
        let beds_score = beds.map(|beds| f64::min(beds / 3.0, 100.0));
        let doctor_score = doctors.map(|doctors| f64::min(doctors, 100.0));
        let nurse_score = nurses.map(|nurses| f64::min(nurses / 3.0, 100.0));
        let resource_score = match (beds_score, doctor_score, nurse_score) {
            (Some(beds), Some(doctor), Some(nurse)) => Some(0.4 * beds + 0.3 * doctor + 0.3 * nurse),
            _ => None,
        };
        [beds, available, doctors, nurses, beds_score, doctor_score, nurse_score, resource_score]
    }

    /// (location, date, overall risk, resource score, resilience) of every pair of a health and a hospital row.
    #[allow(clippy::type_complexity)]
    fn resilience(&self) -> Vec<(i32, NaiveDate, Option<f64>, Option<f64>, Option<f64>)> {
        let mut by_day: BTreeMap<(i32, NaiveDate), Vec<Option<f64>>> = BTreeMap::new();
        for row in &self.hospital {
            by_day.entry((row.1, row.2)).or_default().push(self.scores(row)[7]);
        }
        let mut pairs = Vec::new();
        for row in &self.health {
            let overall = self.risks(row).2;
            for resources in by_day.get(&(row.1, row.2)).into_iter().flatten() {
                let score = match (overall, resources) {
                    (Some(risk), Some(resources)) => Some(100.0 - risk * (100.0 - resources) / 100.0),
                    _ => None,
                };
                pairs.push((row.1, row.2, overall, *resources, score));
            }
        }
        pairs
    }

    fn window_rows(&self, kind: &str, from: NaiveDate, to: NaiveDate, closed: bool) -> Vec<Vec<String>> {
        let inside = |date: NaiveDate| date >= from && date < to;
        let climate: Vec<&Climate> = self.climate.iter().filter(|row| inside(row.1)).collect();
        let health: Vec<&Health> = self.health.iter().filter(|row| inside(row.2)).collect();
        let hospital: Vec<&Hospital> = self.hospital.iter().filter(|row| inside(row.2)).collect();
        let resilience: Vec<_> = self.resilience().into_iter().filter(|row| inside(row.1)).collect();
        let mut places: BTreeSet<i32> = climate.iter().map(|row| row.0).collect();
        places.extend(health.iter().map(|row| row.1));
        places.extend(hospital.iter().map(|row| row.1));
        let each = places.iter().map(|place| Some(*place));
        let rows = std::iter::once(None).chain(each).map(|place| {
            let here = |location: i32| place.is_none_or(|place| place == location);
            let climate: Vec<&Climate> = climate.iter().copied().filter(|row| here(row.0)).collect();
            let health: Vec<&Health> = health.iter().copied().filter(|row| here(row.1)).collect();
            let hospital: Vec<&Hospital> = hospital.iter().copied().filter(|row| here(row.1)).collect();
            let days: BTreeSet<NaiveDate> = climate
                .iter()
                .map(|row| row.1)
                .chain(health.iter().map(|row| row.2))
                .chain(hospital.iter().map(|row| row.2))
                .collect();
            let populations = places.iter().filter(|id| here(**id)).filter_map(|id| self.population(*id));
            let population = populations.reduce(|a, b| a + b);
            let cases = [
                total(health.iter().map(|row| row.3)),
                total(health.iter().map(|row| row.4)),
                total(health.iter().map(|row| row.5)),
                total(health.iter().map(|row| row.6)),
            ];
            let name = place.map(|place| self.locations[&place].1.clone());
            let mut cells = vec![kind.to_owned(), from.to_string(), to.to_string(), text(place), text(name)];
            cells.push(days.len().to_string());
            cells.extend(cases.map(text));
            cells.extend(cases.map(|cases| text(per_100k(cases.map(|cases| cases as f64), population))));
            let occupancy = hospital.iter().map(|row| match (row.3[0], row.3[1]) {
                (Some(total), Some(available)) if total != 0 => Some(1.0 - f64::from(available) / f64::from(total)),
                _ => None,
            });
            cells.extend([
                text(mean(climate.iter().map(|row| row.2))),
                text(most(climate.iter().map(|row| row.2))),
                text(known(climate.iter().map(|row| row.3)).into_iter().reduce(|a, b| a + b)),
                text(most(climate.iter().map(|row| row.4))),
                text(most(climate.iter().map(|row| row.5))),
                text(most(climate.iter().map(|row| row.6))),
                text(mean(occupancy)),
                text(hospital.iter().filter_map(|row| row.3[1]).min()),
                text(mean(health.iter().map(|row| self.risks(row).2))),
                text(mean(hospital.iter().map(|row| self.scores(row)[7]))),
                text(resilience.iter().filter(|row| here(row.0)).filter_map(|row| row.4).reduce(f64::min)),
                closed.to_string(),
            ]);
            cells
        });
        rows.collect()
    }
}

/// A cell as the oracles spell it.
trait Cell {
    fn spell(self) -> String;
}

impl Cell for f64 {
    fn spell(self) -> String {
        number(self)
    }
}

impl Cell for i32 {
    fn spell(self) -> String {
        self.to_string()
    }
}

impl Cell for i64 {
    fn spell(self) -> String {
        self.to_string()
    }
}

impl Cell for String {
    fn spell(self) -> String {
        self
    }
}

fn text(value: Option<impl Cell>) -> String {
    value.map_or_else(|| NULL.to_owned(), Cell::spell)
}

fn per_100k(value: Option<f64>, population: Option<f64>) -> Option<f64> {
    match (value, population) {
        (Some(value), Some(population)) if population != 0.0 => Some(value * 100_000.0 / population),
        _ => None,
    }
}

fn known(values: impl Iterator<Item = Option<f64>>) -> Vec<f64> {
    values.flatten().collect()
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values = known(values);
    (!values.is_empty()).then(|| values.iter().fold(0.0, |sum, value| sum + value) / values.len() as f64)
}

/// The greatest, or NaN where there is one. A zero has no sign: of 0 and -0 neither is greater.
fn most(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values = known(values);
    if values.iter().any(|value| value.is_nan()) {
        return Some(f64::NAN);
    }
    values.into_iter().reduce(f64::max).map(|greatest| 0.0 + greatest)
}

fn total(values: impl Iterator<Item = Option<i32>>) -> Option<i64> {
    values.flatten().map(i64::from).reduce(|a, b| a + b)
}

pub(crate) fn week(date: NaiveDate) -> NaiveDate {
    date - Days::new(date.weekday().num_days_from_monday().into())
}

pub(crate) fn month(date: NaiveDate) -> NaiveDate {
    date.with_day(1).expect("a first day")
}
