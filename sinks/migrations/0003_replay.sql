-- Replay: reading a topic again, in place or into a shadow, while the live pipeline goes on.

-- Messages that are no row of a file stand under object 0 of their domain: two domains may have one at the same offset.
ALTER TABLE pipeline.progress DROP CONSTRAINT progress_pkey, ADD PRIMARY KEY (object, generation, partition, domain);
ALTER TABLE pipeline.rejects DROP CONSTRAINT rejects_pkey, ADD PRIMARY KEY (object, generation, row, domain);

-- One row a replay. A domain has one that is not ended at most, so that two never correct the same rows at once.
CREATE TABLE pipeline.replays (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('in_place', 'shadow')),
    -- What was asked for, in words that are equal if and only if the request is: an interrupted replay goes on
    -- only with its own.
    request text NOT NULL,
    stream_id uuid NOT NULL,
    -- The first offset to read, and one past the last, by partition; a shadow follows the live bookmarks instead.
    start_offsets bigint[],
    end_offsets bigint[],
    -- Readings begun. Where the first one removed rows, a second one fills the places that they had kept.
    pass integer NOT NULL DEFAULT 1,
    owner text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    -- How it ended: done, swapped, dropped or abandoned.
    outcome text CHECK (outcome IN ('done', 'swapped', 'dropped', 'abandoned')),
    CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    -- What became of the rows read, added up in the transactions that did it.
    rows_read bigint NOT NULL DEFAULT 0,
    inserted bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    rejected_anew bigint NOT NULL DEFAULT 0,
    accepted_anew bigint NOT NULL DEFAULT 0,
    removed bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX replays_one_a_domain ON pipeline.replays (domain) WHERE ended_at IS NULL;

-- How far a replay in place has read. The protocol is that of pipeline.bookmarks.
CREATE TABLE pipeline.replay_bookmarks (LIKE pipeline.bookmarks INCLUDING ALL);

-- Which rows a replay in place has read, and what it corrected in them. Where that is all of a file's rows in a
-- partition, its corrections are counted anew.
CREATE TABLE pipeline.replay_progress (LIKE pipeline.progress INCLUDING ALL);

-- Rows that have no place in the table by the rules as they are, or that came to one: what stands under their lineage
-- and another key than `kept` (NULL: under any) is removed once all is read.
CREATE TABLE pipeline.replay_suspects (
    replay bigint NOT NULL REFERENCES pipeline.replays (id) ON DELETE CASCADE,
    object bigint NOT NULL,
    generation integer NOT NULL,
    row bigint NOT NULL,
    kept text,
    PRIMARY KEY (replay, object, generation, row)
);

-- A shadow is a second table of a domain, under the same name, with a state of its own.
CREATE SCHEMA shadow;
CREATE TABLE shadow.bookmarks (LIKE pipeline.bookmarks INCLUDING ALL);
CREATE TABLE shadow.progress (LIKE pipeline.progress INCLUDING ALL);
CREATE TABLE shadow.rejects (LIKE pipeline.rejects INCLUDING ALL);

-- Where the table that a shadow takes the place of stands until the end of that transaction.
CREATE SCHEMA shadow_retired;
