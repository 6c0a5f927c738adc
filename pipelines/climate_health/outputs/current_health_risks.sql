/* freshet
description: Rates and risks of four diseases, a row for each day that a location reported.
windows: [month]
facts: [health]
dimensions: [locations]
key: [location_id, date, projection_year]
columns:
  id: "of the row in health_data"
  dengue_cases: "new dengue cases on the day"
  malaria_cases: "new malaria cases on the day"
  heatstroke_cases: "new heatstroke cases on the day"
  diarrhea_cases: "new diarrhoea cases on the day"
  population: "inhabitants of the location"
  dengue_rate: "dengue cases per 100,000 inhabitants"
  malaria_rate: "malaria cases per 100,000 inhabitants"
  heatstroke_rate: "heatstroke cases per 100,000 inhabitants"
  diarrhea_rate: "diarrhoea cases per 100,000 inhabitants"
  dengue_risk: "0 to 100; 1 at a rate of 5"
  malaria_risk: "0 to 100; 1 at a rate of 3"
  heatstroke_risk: "0 to 100; 1 at a rate of 4"
  diarrhea_risk: "0 to 100; 1 at a rate of 6"
  overall_risk: "the mean of the four risks"
*/

-- Where a count is not known, or nobody is known to live at a place, all that follows from it is not known: NULL.
-- OFFSET 0 has each step worked out once a row; without it the planner works it out wherever it is used.
WITH rates AS (
    SELECT
        h.id, h.location_id, h.date, h.dengue_cases, h.malaria_cases, h.heatstroke_cases, h.diarrhea_cases,
        h.is_projected, h.projection_year, l.name AS location_name, l.population,
        h.dengue_cases::float8 * 100000 / nullif(l.population, 0) AS dengue_rate,
        h.malaria_cases::float8 * 100000 / nullif(l.population, 0) AS malaria_rate,
        h.heatstroke_cases::float8 * 100000 / nullif(l.population, 0) AS heatstroke_rate,
        h.diarrhea_cases::float8 * 100000 / nullif(l.population, 0) AS diarrhea_rate
    FROM health_data AS h
    JOIN locations AS l ON l.id = h.location_id
    WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false
    OFFSET 0
),
risks AS (
    SELECT
        rates.*,
        -- least() passes over NULL, hence the CASE.
        CASE WHEN dengue_rate IS NOT NULL THEN least(dengue_rate / 5, 100) END AS dengue_risk,
        CASE WHEN malaria_rate IS NOT NULL THEN least(malaria_rate / 3, 100) END AS malaria_risk,
        CASE WHEN heatstroke_rate IS NOT NULL THEN least(heatstroke_rate / 4, 100) END AS heatstroke_risk,
        CASE WHEN diarrhea_rate IS NOT NULL THEN least(diarrhea_rate / 6, 100) END AS diarrhea_risk
    FROM rates
    OFFSET 0
)
SELECT
    risks.*,
    0.25 * dengue_risk + 0.25 * malaria_risk + 0.25 * heatstroke_risk + 0.25 * diarrhea_risk AS overall_risk
FROM risks
