-- Of several listeners one lists a domain, for as long as it renews that: an interval, because the clock may go back.
ALTER TABLE pipeline.listings
    ADD COLUMN lister text,
    ADD COLUMN held_from timestamptz,
    ADD COLUMN held_until timestamptz;
