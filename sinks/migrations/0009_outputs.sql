-- Outputs are queries, declared in files. What changed is marked as what it is, a range of dates of a fact or the key of a
-- dimension; which windows of which outputs that makes dirty is the publisher's to say.

ALTER TABLE pipeline.marks
    -- Dates of facts.
    ADD COLUMN dates daterange,
    -- The key of a row of a dimension.
    ADD COLUMN key text,
    -- The dimension that changed, where the dates are those of facts that refer to it: windows that no fact has made dirty.
    ADD COLUMN dimension text;

UPDATE pipeline.marks SET
    dates = CASE window_kind
        WHEN 'week' THEN daterange(window_start, window_start + 7)
        WHEN 'month' THEN daterange(window_start, (window_start + interval '1 month')::date)
        END,
    key = location_id::text;

ALTER TABLE pipeline.marks
    DROP COLUMN window_kind,
    DROP COLUMN window_start,
    DROP COLUMN location_id,
    ADD CHECK ((dates IS NULL) <> (key IS NULL)),
    ADD CHECK (dimension IS NULL OR dates IS NOT NULL),
    ADD CHECK (NOT (isempty(dates) OR lower_inf(dates) OR upper_inf(dates)));

-- What was set up as each output, one row a change; the one with the highest number holds. A publisher whose output is
-- defined otherwise publishes nothing: another program or folder was set up after its own.
CREATE TABLE pipeline.output_definitions (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    output text NOT NULL,
    -- The SHA-256 of its definition; NULL where the output was taken away.
    definition text,
    set_up_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX output_definitions_newest ON pipeline.output_definitions (output, number DESC);

-- Outputs whose query does not work: what is published of them stays as it is.
CREATE TABLE pipeline.output_failures (
    output text PRIMARY KEY,
    definition text NOT NULL,
    reason text NOT NULL,
    -- Times in a row.
    failures integer NOT NULL DEFAULT 1,
    since timestamptz NOT NULL DEFAULT now(),
    -- It is not tried again from retry_from until retry_at: an interval, because the clock may go back.
    retry_from timestamptz NOT NULL DEFAULT now(),
    retry_at timestamptz NOT NULL DEFAULT now()
);
