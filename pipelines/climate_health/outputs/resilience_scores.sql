/* freshet
description: How well a location would stand its overall risk with its resources, a row for each day with both.
windows: [month]
facts: [health, hospital]
dimensions: [locations]
# Several rows may hold one location and date as not projected: each of them is a row, told by its years.
key: [location_id, date, health_projection_year, hospital_projection_year]
hidden: [health_projection_year, hospital_projection_year]
columns:
  overall_risk: "0 to 100, high is bad: as in current_health_risks"
  resource_score: "0 to 100, high is good: as in current_hospital_resources"
  resilience_score: "0 to 100, high is good: 100 less the risk that resources do not cover"
chart:
  title: Resilience and risk
  by: location_id
  label: location_name
  newest: date
  value: resilience_score
  beside: [overall_risk]
  range: [0, 100]
  worst: low
*/

-- Where a count is not known, or nobody is known to live at a place, all that follows from it is not known: NULL.
-- OFFSET 0 has each step worked out once a row; without it the planner works it out wherever it is used.
WITH rates AS (
    SELECT
        h.location_id, h.date, h.projection_year,
        h.dengue_cases::float8 * 100000 / nullif(l.population, 0) AS dengue,
        h.malaria_cases::float8 * 100000 / nullif(l.population, 0) AS malaria,
        h.heatstroke_cases::float8 * 100000 / nullif(l.population, 0) AS heatstroke,
        h.diarrhea_cases::float8 * 100000 / nullif(l.population, 0) AS diarrhea
    FROM health_data AS h
    JOIN locations AS l ON l.id = h.location_id
    WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false
    OFFSET 0
),
risks AS (
    SELECT
        location_id, date, projection_year,
        -- least() passes over NULL, hence the CASE.
        CASE
            WHEN dengue IS NOT NULL AND malaria IS NOT NULL AND heatstroke IS NOT NULL AND diarrhea IS NOT NULL
            THEN 0.25 * least(dengue / 5, 100) + 0.25 * least(malaria / 3, 100)
                + 0.25 * least(heatstroke / 4, 100) + 0.25 * least(diarrhea / 6, 100)
        END AS overall_risk
    FROM rates
    OFFSET 0
),
staff AS (
    SELECT
        h.location_id, h.date, h.projection_year, l.name AS location_name,
        h.total_beds::float8 * 100000 / nullif(l.population, 0) AS beds,
        h.doctors::float8 * 100000 / nullif(l.population, 0) AS doctors,
        h.nurses::float8 * 100000 / nullif(l.population, 0) AS nurses
    FROM hospital_data AS h
    JOIN locations AS l ON l.id = h.location_id
    WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false
    OFFSET 0
),
resources AS (
    SELECT
        location_id, date, projection_year, location_name,
        CASE
            WHEN beds IS NOT NULL AND doctors IS NOT NULL AND nurses IS NOT NULL
            THEN 0.4 * least(beds / 3, 100) + 0.3 * least(doctors, 100) + 0.3 * least(nurses / 3, 100)
        END AS resource_score
    FROM staff
    OFFSET 0
)
SELECT
    location_id, date, resources.location_name, risks.overall_risk, resources.resource_score,
    100 - risks.overall_risk * (100 - resources.resource_score) / 100 AS resilience_score,
    risks.projection_year AS health_projection_year,
    resources.projection_year AS hospital_projection_year
FROM risks
JOIN resources USING (location_id, date)
