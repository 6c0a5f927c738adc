-- Which pipeline was set up, newest last: a role that has another one says so and waits.
CREATE TABLE pipeline.pipelines (
    -- The order of setups.
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    -- Of all that it declares.
    hash text NOT NULL,
    -- Where the domains' tables are.
    schema text NOT NULL,
    -- {"domain": {"judgement": hash of what decides what becomes of a row, "columns": all that it ever had}}
    domains jsonb NOT NULL,
    set_up_at timestamptz NOT NULL DEFAULT now()
);

-- Rows that shared their key with a newer one in a table that was taken over, as they were.
CREATE TABLE pipeline.taken_over_duplicates (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "table" text NOT NULL,
    -- Its id, and the id of the row that stayed.
    row_id text NOT NULL,
    kept_row_id text,
    row jsonb NOT NULL,
    taken_over_at timestamptz NOT NULL DEFAULT now()
);
