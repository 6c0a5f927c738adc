CREATE TABLE pharmacy_data (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    location_id integer NOT NULL,
    date date NOT NULL,
    medicine text NOT NULL,
    stock integer,
    price double precision,
    is_projected boolean,
    projection_year integer,
    src_object bigint NOT NULL,
    src_gen integer NOT NULL,
    src_row bigint NOT NULL,
    src_ord bigint NOT NULL,
    value_ord bigint NOT NULL,
    CONSTRAINT pharmacy_data_key UNIQUE NULLS NOT DISTINCT (location_id, date, medicine, is_projected, projection_year)
);
CREATE INDEX pharmacy_data_date ON pharmacy_data (date);
