-- The four tables, under the names that today's API and dashboards read. `id` is for the API's ORM and means
-- nothing. src_* is the lineage: the file, its reading, its row, and its place in the domain's order.
-- value_ord is the src_ord of the row that last changed a value, so that a re-drop of the same values is told
-- from a change. Facts have no foreign key to locations: they may come first.
CREATE TABLE locations (
    id integer PRIMARY KEY,
    name text NOT NULL,
    type text,
    population integer,
    area double precision,
    src_object bigint NOT NULL,
    src_gen integer NOT NULL,
    src_row bigint NOT NULL,
    src_ord bigint NOT NULL,
    value_ord bigint NOT NULL
);

CREATE TABLE climate_data (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    location_id integer NOT NULL,
    date date NOT NULL,
    temperature double precision NOT NULL,
    rainfall double precision,
    humidity double precision,
    flood_probability double precision,
    cyclone_probability double precision,
    heatwave_probability double precision,
    is_projected boolean,
    projection_year integer,
    src_object bigint NOT NULL,
    src_gen integer NOT NULL,
    src_row bigint NOT NULL,
    src_ord bigint NOT NULL,
    value_ord bigint NOT NULL,
    CONSTRAINT climate_data_key UNIQUE NULLS NOT DISTINCT (location_id, date, is_projected, projection_year)
);
CREATE INDEX climate_data_date ON climate_data (date);

CREATE TABLE health_data (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    location_id integer NOT NULL,
    date date NOT NULL,
    dengue_cases integer,
    malaria_cases integer,
    heatstroke_cases integer,
    diarrhea_cases integer,
    is_projected boolean,
    projection_year integer,
    src_object bigint NOT NULL,
    src_gen integer NOT NULL,
    src_row bigint NOT NULL,
    src_ord bigint NOT NULL,
    value_ord bigint NOT NULL,
    CONSTRAINT health_data_key UNIQUE NULLS NOT DISTINCT (location_id, date, is_projected, projection_year)
);
CREATE INDEX health_data_date ON health_data (date);

CREATE TABLE hospital_data (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    location_id integer NOT NULL,
    date date NOT NULL,
    total_beds integer,
    available_beds integer,
    doctors integer,
    nurses integer,
    iv_fluids_stock integer,
    antibiotics_stock integer,
    antipyretics_stock integer,
    is_projected boolean,
    projection_year integer,
    src_object bigint NOT NULL,
    src_gen integer NOT NULL,
    src_row bigint NOT NULL,
    src_ord bigint NOT NULL,
    value_ord bigint NOT NULL,
    CONSTRAINT hospital_data_key UNIQUE NULLS NOT DISTINCT (location_id, date, is_projected, projection_year)
);
CREATE INDEX hospital_data_date ON hospital_data (date);
