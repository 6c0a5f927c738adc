/* freshet
description: Weeks and months in numbers, for each location and for all together (where location_id is NULL).
windows: [week, month]
facts: [health, hospital, climate]
dimensions: [locations]
key: [window_kind, window_start, location_id]
columns:
  window_kind: "week (from Monday) or month"
  window_end: "the day after its last"
  days: "days with a row of any kind"
  dengue_cases: "new cases in the window"
  malaria_cases: "new cases in the window"
  heatstroke_cases: "new cases in the window"
  diarrhea_cases: "new cases in the window"
  dengue_rate: "cases of the window per 100,000 inhabitants"
  malaria_rate: "cases of the window per 100,000 inhabitants"
  heatstroke_rate: "cases of the window per 100,000 inhabitants"
  diarrhea_rate: "cases of the window per 100,000 inhabitants"
  temperature_mean: "mean of the days"
  temperature_max: "greatest of the days"
  rainfall_sum: "sum of the days"
  flood_probability_max: "greatest of the days"
  cyclone_probability_max: "greatest of the days"
  heatwave_probability_max: "greatest of the days"
  occupancy_mean: "mean share of beds that are taken"
  beds_available_min: "fewest free beds"
  overall_risk_mean: "mean of the days, as in current_health_risks"
  resource_score_mean: "mean of the days, as in current_hospital_resources"
  resilience_score_min: "least of the days, as in resilience_scores"
  final: "whether the window is closed: no more rows are expected"
*/

-- The rows of the window. Sums and means of doubles depend on the order of what is added up, so each is made of rows
-- in order (location, date, year, id); what is not added up needs none.
WITH climate AS (
    SELECT
        c.id, c.location_id, c.date, c.projection_year, c.temperature, c.rainfall, c.flood_probability,
        c.cyclone_probability, c.heatwave_probability
    FROM climate_data AS c
    JOIN locations AS l ON l.id = c.location_id
    WHERE c.date >= :window_start AND c.date < :window_end AND c.is_projected = false
),
rates AS (
    SELECT
        h.id, h.location_id, h.date, h.projection_year,
        h.dengue_cases, h.malaria_cases, h.heatstroke_cases, h.diarrhea_cases,
        h.dengue_cases::float8 * 100000 / nullif(l.population, 0) AS dengue_rate,
        h.malaria_cases::float8 * 100000 / nullif(l.population, 0) AS malaria_rate,
        h.heatstroke_cases::float8 * 100000 / nullif(l.population, 0) AS heatstroke_rate,
        h.diarrhea_cases::float8 * 100000 / nullif(l.population, 0) AS diarrhea_rate
    FROM health_data AS h
    JOIN locations AS l ON l.id = h.location_id
    WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false
),
health AS (
    SELECT
        rates.*,
        -- least() passes over NULL, hence the CASE.
        CASE
            WHEN dengue_rate IS NOT NULL AND malaria_rate IS NOT NULL AND heatstroke_rate IS NOT NULL
                AND diarrhea_rate IS NOT NULL
            THEN 0.25 * least(dengue_rate / 5, 100) + 0.25 * least(malaria_rate / 3, 100)
                + 0.25 * least(heatstroke_rate / 4, 100) + 0.25 * least(diarrhea_rate / 6, 100)
        END AS overall_risk
    FROM rates
),
staff AS (
    SELECT
        h.id, h.location_id, h.date, h.projection_year, h.total_beds, h.available_beds,
        h.total_beds::float8 * 100000 / nullif(l.population, 0) AS beds_rate,
        h.doctors::float8 * 100000 / nullif(l.population, 0) AS doctors_rate,
        h.nurses::float8 * 100000 / nullif(l.population, 0) AS nurses_rate
    FROM hospital_data AS h
    JOIN locations AS l ON l.id = h.location_id
    WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false
),
hospital AS (
    SELECT
        id, location_id, date, projection_year, available_beds,
        1 - available_beds::float8 / nullif(total_beds, 0) AS occupancy,
        CASE
            WHEN beds_rate IS NOT NULL AND doctors_rate IS NOT NULL AND nurses_rate IS NOT NULL
            THEN 0.4 * least(beds_rate / 3, 100) + 0.3 * least(doctors_rate, 100) + 0.3 * least(nurses_rate / 3, 100)
        END AS resource_score
    FROM staff
),

-- Each in a row for a location, and one for all together, whose location_id is NULL and whose place is 'all'. The days
-- with rows are bits, the first day the lowest: a window has 31 at most.
climates AS (
    SELECT
        location_id, coalesce(location_id::text, 'all') AS place, bit_or(1 << (date - :window_start)) AS days,
        -- 0 + makes -0 0: which of the two is the greatest would be left to the order of the rows.
        (0::float8 + sum(temperature)) / count(temperature) AS temperature_mean,
        0::float8 + max(temperature) AS temperature_max,
        sum(rainfall) AS rainfall_sum,
        0::float8 + max(flood_probability) AS flood_probability_max,
        0::float8 + max(cyclone_probability) AS cyclone_probability_max,
        0::float8 + max(heatwave_probability) AS heatwave_probability_max
    FROM (SELECT * FROM climate ORDER BY location_id, date, projection_year NULLS FIRST, id) AS day
    GROUP BY GROUPING SETS ((location_id), ())
    HAVING count(*) > 0
),
cases AS (
    SELECT
        location_id, coalesce(location_id::text, 'all') AS place, bit_or(1 << (date - :window_start)) AS days,
        sum(dengue_cases) AS dengue_cases,
        sum(malaria_cases) AS malaria_cases,
        sum(heatstroke_cases) AS heatstroke_cases,
        sum(diarrhea_cases) AS diarrhea_cases,
        sum(overall_risk) / count(overall_risk) AS overall_risk_mean
    FROM (SELECT * FROM health ORDER BY location_id, date, projection_year NULLS FIRST, id) AS day
    GROUP BY GROUPING SETS ((location_id), ())
    HAVING count(*) > 0
),
beds AS (
    SELECT
        location_id, coalesce(location_id::text, 'all') AS place, bit_or(1 << (date - :window_start)) AS days,
        sum(occupancy) / count(occupancy) AS occupancy_mean,
        min(available_beds) AS beds_available_min,
        sum(resource_score) / count(resource_score) AS resource_score_mean
    FROM (SELECT * FROM hospital ORDER BY location_id, date, projection_year NULLS FIRST, id) AS day
    GROUP BY GROUPING SETS ((location_id), ())
    HAVING count(*) > 0
),
resilience AS (
    SELECT
        coalesce(location_id::text, 'all') AS place,
        min(100 - health.overall_risk * (100 - hospital.resource_score) / 100) AS resilience_score_min
    FROM health
    JOIN hospital USING (location_id, date)
    GROUP BY GROUPING SETS ((location_id), ())
),
places AS (
    SELECT
        place, coalesce(climates.location_id, cases.location_id, beds.location_id) AS location_id,
        bit_count((coalesce(climates.days, 0) | coalesce(cases.days, 0) | coalesce(beds.days, 0))::bit(32)) AS days,
        climates.temperature_mean, climates.temperature_max, climates.rainfall_sum, climates.flood_probability_max,
        climates.cyclone_probability_max, climates.heatwave_probability_max,
        cases.dengue_cases, cases.malaria_cases, cases.heatstroke_cases, cases.diarrhea_cases, cases.overall_risk_mean,
        beds.occupancy_mean, beds.beds_available_min, beds.resource_score_mean, resilience.resilience_score_min
    FROM climates
    FULL JOIN cases USING (place)
    FULL JOIN beds USING (place)
    LEFT JOIN resilience USING (place)
),
inhabitants AS (
    SELECT coalesce(id::text, 'all') AS place, max(name) AS name, sum(population) AS population
    FROM locations
    WHERE id IN (SELECT location_id FROM places)
    GROUP BY GROUPING SETS ((id), ())
)
SELECT
    :window_kind AS window_kind,
    :window_start AS window_start,
    :window_end AS window_end,
    location_id,
    CASE WHEN location_id IS NOT NULL THEN name END AS location_name,
    days::int4 AS days,
    dengue_cases,
    malaria_cases,
    heatstroke_cases,
    diarrhea_cases,
    dengue_cases::float8 * 100000 / nullif(population, 0) AS dengue_rate,
    malaria_cases::float8 * 100000 / nullif(population, 0) AS malaria_rate,
    heatstroke_cases::float8 * 100000 / nullif(population, 0) AS heatstroke_rate,
    diarrhea_cases::float8 * 100000 / nullif(population, 0) AS diarrhea_rate,
    temperature_mean,
    temperature_max,
    rainfall_sum,
    flood_probability_max,
    cyclone_probability_max,
    heatwave_probability_max,
    occupancy_mean,
    beds_available_min,
    overall_risk_mean,
    resource_score_mean,
    resilience_score_min,
    :is_final AS final
FROM places
JOIN inhabitants USING (place)
