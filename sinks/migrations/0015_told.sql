-- What is told of files and of objects that are none.

ALTER TABLE pipeline.objects
    -- Columns of the domain that the file lacks, and for which all of its rows have the contract's value.
    ADD COLUMN absent_defaults text[] NOT NULL DEFAULT '{}',
    -- Rows of the file whose key comes again further down in it.
    ADD COLUMN overtaken bigint NOT NULL DEFAULT 0,
    -- Where the contract says `onOverwrite: replace`, the newer version that was applied: rows of this one have left the
    -- table, and those that still arrive are older than what was there.
    ADD COLUMN replaced_by bigint;

-- Objects of the raw bucket that belong to no domain, as the last listing of the bucket showed them: the newest of them.
CREATE TABLE pipeline.unmatched (
    bucket text NOT NULL,
    key text NOT NULL,
    size_bytes bigint NOT NULL,
    last_modified timestamptz NOT NULL,
    -- What to do about it, for people; NULL where no prefix is near.
    hint text,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, key)
);

-- Whoever shows what files have beside their domain, or lack of it, reads these alone.
CREATE INDEX objects_told ON pipeline.objects (domain) WHERE ignored_columns <> '{}' OR absent_defaults <> '{}';
