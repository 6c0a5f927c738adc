-- The state of the pipeline itself: what was found, how far it is published, applied and derived.
CREATE SCHEMA pipeline;

-- One stream a topic: the id written in record 0 of each of its partitions, by which a topic that was deleted
-- and made again is told from the one that the bookmarks belong to.
CREATE TABLE pipeline.streams (
    domain text PRIMARY KEY,
    topic text NOT NULL,
    stream_id uuid NOT NULL,
    -- Raised by adopt, restore and shadow swap; bookmark vectors compare within one epoch only.
    epoch bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The object ledger: one row an object version, from discovery to applied.
CREATE TABLE pipeline.objects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket text NOT NULL,
    key text NOT NULL,
    version_id text,
    etag text NOT NULL,
    size_bytes bigint NOT NULL,
    last_modified timestamptz NOT NULL,
    domain text NOT NULL,
    -- (last-modified second << 24 | tie): the object's place in the domain's order, fixed for good.
    src_ord bigint NOT NULL,
    state text NOT NULL DEFAULT 'discovered'
        CHECK (state IN ('discovered', 'publishing', 'published', 'applied', 'rejected', 'superseded')),
    reason text,
    -- The lease saves work; correctness does not rest on it. Every write of a listener carries lease_epoch.
    lease_owner text,
    lease_epoch bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    -- Frozen per (object, generation).
    generation integer NOT NULL DEFAULT 1,
    parser_version integer,
    partition_count integer,
    -- The resume point: everything before it is acknowledged by Kafka. Bytes count after decompression.
    resume_byte bigint NOT NULL DEFAULT 0,
    resume_line bigint NOT NULL DEFAULT 0,
    resume_row bigint NOT NULL DEFAULT 0,
    resume_seqs bigint[],
    -- Set with the state 'published'; end_offsets, stream_id and sha256 also with each resume point.
    -- end_offsets[p] is one past the last record in partition p, 0 for none.
    rows bigint,
    partition_rows bigint[],
    end_offsets bigint[],
    stream_id uuid,
    sha256 bytea,
    ignored_columns text[] NOT NULL DEFAULT '{}',
    repairs integer NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    discovered_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    applied_at timestamptz,
    UNIQUE (domain, src_ord)
);
-- Identity: the version id where the bucket keeps versions, else what a HEAD tells of the content.
CREATE UNIQUE INDEX objects_version ON pipeline.objects (bucket, key, version_id) WHERE version_id IS NOT NULL;
CREATE UNIQUE INDEX objects_content ON pipeline.objects (bucket, key, etag, size_bytes, last_modified)
    WHERE version_id IS NULL;
CREATE INDEX objects_key ON pipeline.objects (bucket, key, src_ord DESC);
CREATE INDEX objects_unfinished ON pipeline.objects (domain, src_ord)
    WHERE state IN ('discovered', 'publishing', 'published');
-- What a claim and a sweep look for, in their order, without stepping over each other's backlog.
CREATE INDEX objects_waiting ON pipeline.objects (domain, src_ord) WHERE state IN ('discovered', 'publishing');
CREATE INDEX objects_published ON pipeline.objects (domain, src_ord) WHERE state = 'published';

-- How far each partition is applied. Moved in the same transaction as the rows.
CREATE TABLE pipeline.bookmarks (
    domain text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL DEFAULT 0,
    stream_id uuid NOT NULL,
    -- Raised by every assignment, so that a former owner's transactions no longer fit.
    owner_epoch bigint NOT NULL DEFAULT 0,
    owner text,
    -- Why the partition is halted; NULL while it runs.
    halted text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, partition)
);

-- Which rows of an object were received, and what became of them. No foreign key: rows of a topic that outlived
-- the ledger still apply.
CREATE TABLE pipeline.progress (
    object bigint NOT NULL,
    generation integer NOT NULL,
    partition integer NOT NULL,
    domain text NOT NULL,
    -- The seqs received, nearly always one range.
    received int8multirange NOT NULL DEFAULT '{}',
    applied bigint NOT NULL DEFAULT 0,
    stale bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    corrected bigint NOT NULL DEFAULT 0,
    -- {"column:rule": count}
    corrections jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (object, generation, partition)
);

-- Dead letters: a row that cannot load, whole, with where it came from and why. A message that is no row of a
-- file stands under object 0, its partition as generation and its offset as row.
CREATE TABLE pipeline.rejects (
    object bigint NOT NULL,
    generation integer NOT NULL,
    row bigint NOT NULL,
    domain text NOT NULL,
    line bigint NOT NULL,
    "column" text,
    value text,
    rule text NOT NULL,
    raw text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (object, generation, row)
);
CREATE INDEX rejects_by_rule ON pipeline.rejects (domain, rule);

-- What changed since the outputs were last derived: the window of a fact, or a location. Appended by apply;
-- the publisher deletes exactly the ids that its snapshot saw.
CREATE TABLE pipeline.marks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain text NOT NULL,
    window_kind text CHECK (window_kind IN ('week', 'month')),
    window_start date,
    location_id integer,
    marked_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((window_kind IS NULL) = (window_start IS NULL)),
    CHECK ((window_kind IS NULL) <> (location_id IS NULL))
);
