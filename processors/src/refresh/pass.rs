//! One pass over a window's rows makes all of its outputs that are asked for.
//!
//! Climate, then health, then hospital, each streamed from Postgres sorted by location and date. What is kept
//! in memory is the aggregates (a few hundred bytes a location) and the overall risk of each health row, with
//! which the hospital rows are joined as they come by.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use freshet_topics::window::Window;
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::RefreshError;
use super::aggregate::{Aggregates, Climate, Location, Locations};
use super::format::{Cell, Encoded, FormatError, Table};
use super::schema::columns;
use crate::derive::{self, Cases};
use crate::windows::Output;

const CLIMATE_SQL: &str = "SELECT location_id, date, temperature, rainfall, flood_probability, cyclone_probability, \
     heatwave_probability FROM climate_data WHERE is_projected = false AND date >= $1 AND date < $2 \
     ORDER BY location_id, date, projection_year NULLS FIRST, id";

const HEALTH_SQL: &str = "SELECT id, location_id, date, dengue_cases, malaria_cases, heatstroke_cases, \
     diarrhea_cases, projection_year FROM health_data WHERE is_projected = false AND date >= $1 AND date < $2 \
     ORDER BY location_id, date, projection_year NULLS FIRST, id";

const HOSPITAL_SQL: &str = "SELECT id, location_id, date, total_beds, available_beds, doctors, nurses, \
     iv_fluids_stock, antibiotics_stock, antipyretics_stock, projection_year FROM hospital_data \
     WHERE is_projected = false AND date >= $1 AND date < $2 \
     ORDER BY location_id, date, projection_year NULLS FIRST, id";

type ClimateRow = (i32, NaiveDate, Option<f64>, Option<f64>, Option<f64>, Option<f64>, Option<f64>);
type HealthRow = (i64, i32, NaiveDate, Option<i32>, Option<i32>, Option<i32>, Option<i32>, Option<i32>);
type HospitalRow = (
    i64,
    i32,
    NaiveDate,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<i32>,
    Option<i32>,
);

/// What is being made of a window.
struct Pass<'a> {
    window: Window,
    locations: &'a Locations,
    risks: Option<Table>,
    resources: Option<Table>,
    resilience: Option<Table>,
    aggregates: Option<Aggregates>,
    /// Health rows in order, and how far hospital rows have passed them.
    overall_risks: Vec<(i32, NaiveDate, Option<f64>)>,
    passed: usize,
    /// The hospital rows of the (location, date) at hand.
    group: Option<(i32, NaiveDate)>,
    resource_scores: Vec<Option<f64>>,
}

/// Derives the outputs of a window.
pub(super) async fn derive(
    connection: &mut PgConnection,
    locations: &Locations,
    window: Window,
    outputs: &BTreeSet<Output>,
    is_final: bool,
) -> Result<Vec<(Output, Encoded)>, RefreshError> {
    let mut pass = Pass::new(locations, window, outputs)?;
    let failed = |source| RefreshError::Postgres { action: "read the rows of a window", source };
    let wants = |domain: &str| outputs.iter().any(|output| output.sources().contains(&domain));
    if wants("climate") {
        let mut rows =
            sqlx::query_as::<_, ClimateRow>(CLIMATE_SQL).bind(window.start).bind(window.end()).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            pass.climate(row);
        }
    }
    if wants("health") {
        let mut rows =
            sqlx::query_as::<_, HealthRow>(HEALTH_SQL).bind(window.start).bind(window.end()).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            pass.health(row)?;
        }
    }
    if wants("hospital") {
        let mut rows = sqlx::query_as::<_, HospitalRow>(HOSPITAL_SQL)
            .bind(window.start)
            .bind(window.end())
            .fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            pass.hospital(row)?;
        }
    }
    pass.finish(is_final)
}

impl<'a> Pass<'a> {
    fn new(locations: &'a Locations, window: Window, outputs: &BTreeSet<Output>) -> Result<Self, FormatError> {
        let table = |output| outputs.contains(&output).then(|| Table::new(columns(output))).transpose();
        Ok(Pass {
            window,
            locations,
            risks: table(Output::HealthRisks)?,
            resources: table(Output::HospitalResources)?,
            resilience: table(Output::ResilienceScores)?,
            aggregates: outputs.contains(&Output::WindowMetrics).then(|| Aggregates::new(window)),
            overall_risks: Vec::new(),
            passed: 0,
            group: None,
            resource_scores: Vec::new(),
        })
    }

    fn climate(&mut self, row: ClimateRow) {
        let (location_id, date, temperature, rainfall, flood, cyclone, heatwave) = row;
        if let Some(aggregates) = self.aggregates.as_mut().filter(|_| self.locations.contains_key(&location_id)) {
            let row = Climate {
                temperature,
                rainfall,
                flood_probability: flood,
                cyclone_probability: cyclone,
                heatwave_probability: heatwave,
            };
            aggregates.climate(location_id, date, &row);
        }
    }

    fn health(&mut self, row: HealthRow) -> Result<(), FormatError> {
        let (id, location_id, date, dengue, malaria, heatstroke, diarrhea, projection_year) = row;
        let Some(location) = self.locations.get(&location_id) else { return Ok(()) };
        let cases: Cases = [dengue, malaria, heatstroke, diarrhea].map(|cases| cases.map(i64::from));
        let risk = derive::health_risk(cases, location.population.map(i64::from));
        if let Some(table) = &mut self.risks {
            let [dengue_rate, malaria_rate, heatstroke_rate, diarrhea_rate] = risk.rates;
            let [dengue_risk, malaria_risk, heatstroke_risk, diarrhea_risk] = risk.risks;
            table.row(&[
                Cell::Int(id),
                Cell::Int(location_id.into()),
                Cell::Date(date),
                dengue.into(),
                malaria.into(),
                heatstroke.into(),
                diarrhea.into(),
                Cell::Bool(false),
                projection_year.into(),
                Cell::Text(&location.name),
                location.population.into(),
                dengue_rate.into(),
                malaria_rate.into(),
                heatstroke_rate.into(),
                diarrhea_rate.into(),
                dengue_risk.into(),
                malaria_risk.into(),
                heatstroke_risk.into(),
                diarrhea_risk.into(),
                risk.overall.into(),
            ])?;
        }
        if let Some(aggregates) = &mut self.aggregates {
            aggregates.health(location_id, date, cases, &risk);
        }
        self.overall_risks.push((location_id, date, risk.overall));
        Ok(())
    }

    fn hospital(&mut self, row: HospitalRow) -> Result<(), FormatError> {
        let (id, location_id, date, total, available, doctors, nurses, iv_fluids, antibiotics, antipyretics, year) =
            row;
        let Some(location) = self.locations.get(&location_id) else { return Ok(()) };
        let [total_beds, available_beds, all_doctors, all_nurses] =
            [total, available, doctors, nurses].map(|count| count.map(i64::from));
        let population = location.population.map(i64::from);
        let scores = derive::resources(total_beds, available_beds, all_doctors, all_nurses, population);
        if let Some(table) = &mut self.resources {
            table.row(&[
                Cell::Int(id),
                Cell::Int(location_id.into()),
                Cell::Date(date),
                total.into(),
                available.into(),
                doctors.into(),
                nurses.into(),
                iv_fluids.into(),
                antibiotics.into(),
                antipyretics.into(),
                Cell::Bool(false),
                year.into(),
                Cell::Text(&location.name),
                location.population.into(),
                scores.beds_per_100k.into(),
                scores.available_beds_per_100k.into(),
                scores.doctors_per_100k.into(),
                scores.nurses_per_100k.into(),
                scores.beds_score.into(),
                scores.doctor_score.into(),
                scores.nurse_score.into(),
                scores.resource_score.into(),
            ])?;
        }
        if let Some(aggregates) = &mut self.aggregates {
            aggregates.hospital(location_id, date, total_beds, available_beds, scores.resource_score);
        }
        if self.group != Some((location_id, date)) {
            self.join_group()?;
            self.group = Some((location_id, date));
        }
        self.resource_scores.push(scores.resource_score);
        Ok(())
    }

    /// Joins the hospital rows of one (location, date) with its health rows: every combination, in order of the
    /// health row, then of the hospital row.
    fn join_group(&mut self) -> Result<(), FormatError> {
        let Some((location_id, date)) = self.group.take() else { return Ok(()) };
        let ahead = &self.overall_risks[self.passed..];
        let before = ahead.partition_point(|(location, day, _)| (*location, *day) < (location_id, date));
        let matching = ahead[before..].iter().take_while(|(location, day, _)| (*location, *day) == (location_id, date));
        let location: &Location = &self.locations[&location_id];
        for (_, _, overall_risk) in matching {
            for resource_score in &self.resource_scores {
                let score = derive::resilience(*overall_risk, *resource_score);
                if let Some(table) = &mut self.resilience {
                    table.row(&[
                        Cell::Int(location_id.into()),
                        Cell::Date(date),
                        Cell::Text(&location.name),
                        (*overall_risk).into(),
                        (*resource_score).into(),
                        score.into(),
                    ])?;
                }
                if let Some(aggregates) = &mut self.aggregates {
                    aggregates.resilience(location_id, date, score);
                }
            }
        }
        self.passed += before;
        self.resource_scores.clear();
        Ok(())
    }

    fn finish(mut self, is_final: bool) -> Result<Vec<(Output, Encoded)>, RefreshError> {
        self.join_group()?;
        let metrics = match &self.aggregates {
            Some(aggregates) => {
                let mut table = Table::new(columns(Output::WindowMetrics))?;
                for row in aggregates.rows(self.locations, is_final) {
                    table.row(&row)?;
                }
                Some(table)
            }
            None => None,
        };
        let tables = [
            (Output::HealthRisks, self.risks),
            (Output::HospitalResources, self.resources),
            (Output::ResilienceScores, self.resilience),
            (Output::WindowMetrics, metrics),
        ];
        let mut derived = Vec::new();
        for (output, table) in tables {
            if let Some(table) = table {
                let encoded = table.finish()?;
                tracing::debug!(output = output.name(), window = %self.window.start, rows = encoded.rows, "derived");
                derived.push((output, encoded));
            }
        }
        Ok(derived)
    }
}
