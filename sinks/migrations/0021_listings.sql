-- Listings of the raw bucket, one row a domain.
CREATE TABLE pipeline.listings (
    bucket text NOT NULL,
    domain text NOT NULL,
    -- Versions that were written later than this, by S3's clock, are registered even where they were overwritten before
    -- they were seen: what the first listing by versions showed. NULL until then.
    versions_from timestamptz,
    PRIMARY KEY (bucket, domain)
);

-- What could not be listed, as of the last listing of its domain.
CREATE TABLE pipeline.unlisted (
    bucket text NOT NULL,
    domain text NOT NULL,
    -- What begins with this was not listed, or not all of it.
    prefix text NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, domain, prefix)
);
