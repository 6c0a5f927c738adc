-- A claim reads the waiting files in the order of `objects_waiting`, and stops once it has enough. Its condition implied that
-- of `objects_not_applied`, so Postgres could take that index instead and sort all waiting files for each claim.
-- It is built in about a second for a million files; until then nobody writes to the table.
DROP INDEX pipeline.objects_not_applied;
CREATE INDEX objects_not_applied ON pipeline.objects (state, id) WHERE (state = 'applied') IS NOT TRUE;
