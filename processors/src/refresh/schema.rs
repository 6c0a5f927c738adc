//! The columns of the derived outputs, in the order in which every format holds them.

use crate::windows::Output;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int32,
    Int64,
    Double,
    Text,
    Date,
    Bool,
}

pub(super) type Column = (&'static str, Kind);

/// The columns of an output.
pub(super) const fn columns(output: Output) -> &'static [Column] {
    match output {
        Output::HealthRisks => HEALTH_RISKS,
        Output::HospitalResources => HOSPITAL_RESOURCES,
        Output::ResilienceScores => RESILIENCE_SCORES,
        Output::WindowMetrics => WINDOW_METRICS,
    }
}

const HEALTH_RISKS: &[Column] = &[
    ("id", Kind::Int64),
    ("location_id", Kind::Int32),
    ("date", Kind::Date),
    ("dengue_cases", Kind::Int32),
    ("malaria_cases", Kind::Int32),
    ("heatstroke_cases", Kind::Int32),
    ("diarrhea_cases", Kind::Int32),
    ("is_projected", Kind::Bool),
    ("projection_year", Kind::Int32),
    ("location_name", Kind::Text),
    ("population", Kind::Int32),
    ("dengue_rate", Kind::Double),
    ("malaria_rate", Kind::Double),
    ("heatstroke_rate", Kind::Double),
    ("diarrhea_rate", Kind::Double),
    ("dengue_risk", Kind::Double),
    ("malaria_risk", Kind::Double),
    ("heatstroke_risk", Kind::Double),
    ("diarrhea_risk", Kind::Double),
    ("overall_risk", Kind::Double),
];

const HOSPITAL_RESOURCES: &[Column] = &[
    ("id", Kind::Int64),
    ("location_id", Kind::Int32),
    ("date", Kind::Date),
    ("total_beds", Kind::Int32),
    ("available_beds", Kind::Int32),
    ("doctors", Kind::Int32),
    ("nurses", Kind::Int32),
    ("iv_fluids_stock", Kind::Int32),
    ("antibiotics_stock", Kind::Int32),
    ("antipyretics_stock", Kind::Int32),
    ("is_projected", Kind::Bool),
    ("projection_year", Kind::Int32),
    ("location_name", Kind::Text),
    ("population", Kind::Int32),
    ("beds_per_100k", Kind::Double),
    ("available_beds_per_100k", Kind::Double),
    ("doctors_per_100k", Kind::Double),
    ("nurses_per_100k", Kind::Double),
    ("beds_score", Kind::Double),
    ("doctor_score", Kind::Double),
    ("nurse_score", Kind::Double),
    ("resource_score", Kind::Double),
];

const RESILIENCE_SCORES: &[Column] = &[
    ("location_id", Kind::Int32),
    ("date", Kind::Date),
    ("location_name", Kind::Text),
    ("overall_risk", Kind::Double),
    ("resource_score", Kind::Double),
    ("resilience_score", Kind::Double),
];

/// `window_end` is the day after the window's last.
const WINDOW_METRICS: &[Column] = &[
    ("window_kind", Kind::Text),
    ("window_start", Kind::Date),
    ("window_end", Kind::Date),
    ("location_id", Kind::Int32),
    ("location_name", Kind::Text),
    ("days", Kind::Int32),
    ("dengue_cases", Kind::Int64),
    ("malaria_cases", Kind::Int64),
    ("heatstroke_cases", Kind::Int64),
    ("diarrhea_cases", Kind::Int64),
    ("dengue_rate", Kind::Double),
    ("malaria_rate", Kind::Double),
    ("heatstroke_rate", Kind::Double),
    ("diarrhea_rate", Kind::Double),
    ("temperature_mean", Kind::Double),
    ("temperature_max", Kind::Double),
    ("rainfall_sum", Kind::Double),
    ("flood_probability_max", Kind::Double),
    ("cyclone_probability_max", Kind::Double),
    ("heatwave_probability_max", Kind::Double),
    ("occupancy_mean", Kind::Double),
    ("beds_available_min", Kind::Int32),
    ("overall_risk_mean", Kind::Double),
    ("resource_score_mean", Kind::Double),
    ("resilience_score_min", Kind::Double),
    ("final", Kind::Bool),
];
