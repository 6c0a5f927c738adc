/* freshet
description: What hospitals have for each 100,000 inhabitants, a row for each day that a location reported.
windows: [month]
facts: [hospital]
dimensions: [locations]
key: [location_id, date, projection_year]
columns:
  id: "of the row in hospital_data"
  total_beds: "beds"
  available_beds: "beds that are free"
  doctors: "doctors on duty"
  nurses: "nurses on duty"
  iv_fluids_stock: "units in stock"
  antibiotics_stock: "units in stock"
  antipyretics_stock: "units in stock"
  population: "inhabitants of the location"
  beds_per_100k: "beds per 100,000 inhabitants"
  available_beds_per_100k: "free beds per 100,000 inhabitants"
  doctors_per_100k: "doctors per 100,000 inhabitants"
  nurses_per_100k: "nurses per 100,000 inhabitants"
  beds_score: "0 to 100; 100 from 300 beds per 100,000 inhabitants on"
  doctor_score: "0 to 100; 100 from 100 doctors per 100,000 inhabitants on"
  nurse_score: "0 to 100; 100 from 300 nurses per 100,000 inhabitants on"
  resource_score: "0.4 of the score of beds, 0.3 of that of doctors, 0.3 of that of nurses"
*/

-- Where a count is not known, or nobody is known to live at a place, all that follows from it is not known: NULL.
-- OFFSET 0 has each step worked out once a row; without it the planner works it out wherever it is used.
WITH rates AS (
    SELECT
        h.id, h.location_id, h.date, h.total_beds, h.available_beds, h.doctors, h.nurses, h.iv_fluids_stock,
        h.antibiotics_stock, h.antipyretics_stock, h.is_projected, h.projection_year, l.name AS location_name,
        l.population,
        h.total_beds::float8 * 100000 / nullif(l.population, 0) AS beds_per_100k,
        h.available_beds::float8 * 100000 / nullif(l.population, 0) AS available_beds_per_100k,
        h.doctors::float8 * 100000 / nullif(l.population, 0) AS doctors_per_100k,
        h.nurses::float8 * 100000 / nullif(l.population, 0) AS nurses_per_100k
    FROM hospital_data AS h
    JOIN locations AS l ON l.id = h.location_id
    WHERE h.date >= :window_start AND h.date < :window_end AND h.is_projected = false
    OFFSET 0
),
scores AS (
    SELECT
        rates.*,
        -- least() passes over NULL, hence the CASE.
        CASE WHEN beds_per_100k IS NOT NULL THEN least(beds_per_100k / 3, 100) END AS beds_score,
        CASE WHEN doctors_per_100k IS NOT NULL THEN least(doctors_per_100k, 100) END AS doctor_score,
        CASE WHEN nurses_per_100k IS NOT NULL THEN least(nurses_per_100k / 3, 100) END AS nurse_score
    FROM rates
    OFFSET 0
)
SELECT
    scores.*,
    0.4 * beds_score + 0.3 * doctor_score + 0.3 * nurse_score AS resource_score
FROM scores
