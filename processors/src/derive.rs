//! The formulas of the derived outputs: pure, in double, and NULL wherever an input is.
//!
//! The source of every formula and constant is the batch job that freshet replaces (domains.md, "Derived
//! outputs"). Raise [`CODE_VERSION`] with any change here or in what the outputs hold: it marks every window.

/// The version of the formulas and of the files' layout, kept in the manifest.
pub const CODE_VERSION: u32 = 1;

/// What a rate refers to: cases, beds, people per this many inhabitants.
const PER: f64 = 100_000.0;
/// Scores and risks end here.
const SCORE_MAX: f64 = 100.0;
/// Rate at which a disease counts as risk 1: dengue, malaria, heatstroke, diarrhea.
const RISK_DIVISORS: [f64; 4] = [5.0, 3.0, 4.0, 6.0];
/// Each disease's share of the overall risk.
const RISK_WEIGHT: f64 = 0.25;

/// The diseases' cases of a row or a window: dengue, malaria, heatstroke, diarrhea.
pub(crate) type Cases = [Option<i64>; 4];

/// What a health row says about risk.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct HealthRisk {
    /// Cases per 100,000 inhabitants: dengue, malaria, heatstroke, diarrhea.
    pub(crate) rates: [Option<f64>; 4],
    /// 0 to 100 each, in the same order.
    pub(crate) risks: [Option<f64>; 4],
    /// The mean of the four.
    pub(crate) overall: Option<f64>,
}

/// What a hospital row says about resources.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Resources {
    /// Beds per 100,000 inhabitants.
    pub(crate) beds_per_100k: Option<f64>,
    /// Available beds per 100,000 inhabitants.
    pub(crate) available_beds_per_100k: Option<f64>,
    /// Doctors per 100,000 inhabitants.
    pub(crate) doctors_per_100k: Option<f64>,
    /// Nurses per 100,000 inhabitants.
    pub(crate) nurses_per_100k: Option<f64>,
    /// 0 to 100.
    pub(crate) beds_score: Option<f64>,
    /// 0 to 100.
    pub(crate) doctor_score: Option<f64>,
    /// 0 to 100.
    pub(crate) nurse_score: Option<f64>,
    /// 0 to 100.
    pub(crate) resource_score: Option<f64>,
}

/// `value` per 100,000 inhabitants; nothing where the value or the population is unknown, or nobody lives there.
///
/// | value | population | rate |
/// |---|---|---|
/// | 4911 | 49577103 | 9.905782514157796 |
/// | NULL | any | NULL |
/// | any | NULL or 0 | NULL |
pub(crate) fn rate(value: Option<i64>, population: Option<i64>) -> Option<f64> {
    let population = population.filter(|population| *population != 0)?;
    Some(value? as f64 * PER / population as f64)
}

/// Rates, risks and overall risk of a health row.
pub(crate) fn health_risk(cases: Cases, population: Option<i64>) -> HealthRisk {
    let rates = cases.map(|cases| rate(cases, population));
    let mut risks = [None; 4];
    for ((risk, rate), divisor) in risks.iter_mut().zip(rates).zip(RISK_DIVISORS) {
        *risk = rate.map(|rate| least(rate / divisor, SCORE_MAX));
    }
    let overall = risks.into_iter().try_fold(0.0, |sum, risk| Some(sum + RISK_WEIGHT * risk?));
    HealthRisk { rates, risks, overall }
}

/// Rates and scores of a hospital row.
pub(crate) fn resources(
    total_beds: Option<i64>,
    available_beds: Option<i64>,
    doctors: Option<i64>,
    nurses: Option<i64>,
    population: Option<i64>,
) -> Resources {
    let beds_per_100k = rate(total_beds, population);
    let doctors_per_100k = rate(doctors, population);
    let nurses_per_100k = rate(nurses, population);
    let beds_score = beds_per_100k.map(|beds| least(beds / 3.0, SCORE_MAX));
    let doctor_score = doctors_per_100k.map(|doctors| least(doctors, SCORE_MAX));
    let nurse_score = nurses_per_100k.map(|nurses| least(nurses / 3.0, SCORE_MAX));
    let resource_score = match (beds_score, doctor_score, nurse_score) {
        (Some(beds), Some(doctors), Some(nurses)) => Some(0.4 * beds + 0.3 * doctors + 0.3 * nurses),
        _ => None,
    };
    Resources {
        beds_per_100k,
        available_beds_per_100k: rate(available_beds, population),
        doctors_per_100k,
        nurses_per_100k,
        beds_score,
        doctor_score,
        nurse_score,
        resource_score,
    }
}

/// How well a place would stand its overall risk with its resources.
pub(crate) fn resilience(overall_risk: Option<f64>, resource_score: Option<f64>) -> Option<f64> {
    Some(100.0 - overall_risk? * (100.0 - resource_score?) / 100.0)
}

/// The share of beds that is taken; nothing where there are none.
pub(crate) fn occupancy(total_beds: Option<i64>, available_beds: Option<i64>) -> Option<f64> {
    let total_beds = total_beds.filter(|beds| *beds != 0)?;
    Some(1.0 - available_beds? as f64 / total_beds as f64)
}

/// The lesser of two; NaN if one is, where `f64::min` would hide it.
pub(crate) fn least(left: f64, right: f64) -> f64 {
    match left.is_nan() || right.is_nan() {
        true => f64::NAN,
        false => left.min(right),
    }
}

/// The greater of two; NaN if one is.
pub(crate) fn greatest(left: f64, right: f64) -> f64 {
    match left.is_nan() || right.is_nan() {
        true => f64::NAN,
        false => left.max(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Location 1 on 2025-08-22 of the seed data, as the batch job computed it.
    #[test]
    fn the_golden_row_comes_out_to_the_last_digit() {
        let population = Some(49_577_103);
        let health = health_risk([Some(4911), Some(5753), Some(0), Some(29614)], population);
        let hospital = resources(Some(135_902), Some(119_791), Some(27_159), Some(96_535), population);
        assert_eq!(health.rates[0], Some(9.905782514157796));
        assert_eq!(health.overall, Some(3.9511855570369514));
        assert_eq!(hospital.resource_score, Some(72.45575980239641));
        assert_eq!(resilience(health.overall, hospital.resource_score), Some(98.91167595951671));
    }

    #[test]
    fn null_and_nobody_give_null_and_never_100_or_infinity() {
        let all = [Some(1); 4];
        for population in [None, Some(0)] {
            assert_eq!(health_risk(all, population), HealthRisk::default());
            assert_eq!(resources(Some(1), Some(1), Some(1), Some(1), population), Resources::default());
        }
        for missing in 0..4 {
            let mut cases = all;
            cases[missing] = None;
            let risk = health_risk(cases, Some(1_000));
            assert_eq!(risk.overall, None);
            assert_eq!(risk.rates.iter().filter(|rate| rate.is_none()).count(), 1);
            assert_eq!(risk.risks[missing], None);
        }
        let available_only = resources(None, Some(1), Some(1), Some(1), Some(1_000));
        assert_eq!((available_only.beds_score, available_only.resource_score), (None, None));
        assert_eq!(available_only.available_beds_per_100k, Some(100.0));
        assert_eq!(resilience(None, Some(1.0)), None);
        assert_eq!(resilience(Some(1.0), None), None);
    }

    #[test]
    fn risks_and_scores_end_at_100_and_large_counts_do_not_overflow() {
        let most = Some(i64::from(i32::MAX));
        let risk = health_risk([most; 4], Some(1));
        assert_eq!(risk.rates[0], Some(2147483647.0 * 100000.0));
        assert_eq!((risk.risks, risk.overall), ([Some(100.0); 4], Some(100.0)));
        assert_eq!(resources(most, most, most, most, Some(1)).resource_score, Some(100.0));
        assert_eq!(resilience(Some(100.0), Some(0.0)), Some(0.0));
    }

    #[test]
    fn occupancy_needs_beds() {
        let cases =
            [(Some(100), Some(25), Some(0.75)), (Some(0), Some(0), None), (None, Some(1), None), (Some(1), None, None)];
        for (total, available, expected) in cases {
            assert_eq!(occupancy(total, available), expected, "{total:?} {available:?}");
        }
    }

    #[test]
    fn nan_is_not_hidden_by_a_bound() {
        assert!(least(f64::NAN, 100.0).is_nan() && least(100.0, f64::NAN).is_nan());
        assert!(greatest(f64::NAN, 1.0).is_nan() && greatest(1.0, f64::NAN).is_nan());
        assert_eq!((least(1.0, 2.0), greatest(1.0, 2.0)), (1.0, 2.0));
    }
}
