-- Lives of the ledger. A Postgres that was restored from a backup, promoted without its last transactions or made
-- anew goes back in time while Kafka and S3 go on: object ids, places and epochs come again. Each life has a random
-- number of its own, which is half of every object's nonce, so that rows of another life are told from this one's.
CREATE TABLE pipeline.lives (
    number integer PRIMARY KEY,
    -- Never 0: the nil UUID is that of objects from before there were lives.
    nonce bigint NOT NULL UNIQUE CHECK (nonce <> 0),
    began_at timestamptz NOT NULL DEFAULT now(),
    -- made: with the database; restored: a processor found rows that the ledger had forgotten; by hand: a person said so.
    why text NOT NULL CHECK (why IN ('made', 'restored', 'by hand')),
    -- What showed it.
    evidence text
);

-- 64 random bits: the half of a version 4 UUID that holds its version is never 0.
CREATE FUNCTION pipeline.new_life_nonce() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT ('x' || left(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint $$;

INSERT INTO pipeline.lives (number, nonce, why) VALUES (1, pipeline.new_life_nonce(), 'made');

-- The nonce of a new object: the current life's in the upper half, a random number in the lower. So an id that comes
-- again has another nonce also before anybody has noticed that the ledger went back.
CREATE FUNCTION pipeline.new_nonce() RETURNS uuid LANGUAGE sql VOLATILE AS
    $$ SELECT (lpad(to_hex(nonce), 16, '0') || right(replace(gen_random_uuid()::text, '-', ''), 16))::uuid
       FROM pipeline.lives ORDER BY number DESC LIMIT 1 $$;

-- Rows of the objects that are there already have an origin without a nonce, which is read as nil.
ALTER TABLE pipeline.objects ADD COLUMN nonce uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
ALTER TABLE pipeline.objects ALTER COLUMN nonce SET DEFAULT pipeline.new_nonce();

-- Rows of topics that are not this ledger's: never applied, and not in pipeline.progress.
CREATE TABLE pipeline.passed_over (
    domain text NOT NULL,
    -- The object's, as the row says; its upper half is the life.
    nonce uuid NOT NULL,
    object bigint NOT NULL,
    partition integer NOT NULL,
    rows bigint NOT NULL,
    first_offset bigint NOT NULL,
    last_offset bigint NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, nonce, object, partition)
);
