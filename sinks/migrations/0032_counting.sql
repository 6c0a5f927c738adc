-- The state of the pipeline is counted every few seconds: without reading all files and all that was received of them.
-- Each of these is built in about a second for a million files; until then nobody writes to the table.

-- Files by state, the newest first. Most files are applied, and stand in the other one.
CREATE INDEX objects_not_applied ON pipeline.objects (state, id) WHERE state <> 'applied';
-- All that is counted of the applied files, so that the table, more than ten times as large, is not read for it.
CREATE INDEX objects_applied ON pipeline.objects (id) INCLUDE (domain, rows, last_modified) WHERE state = 'applied';
-- Files that were read more than once: what earlier readings came to is taken off.
CREATE INDEX objects_read_again ON pipeline.objects (id) WHERE generation > 1;
-- Parts of files of which some row did not simply load as it was.
CREATE INDEX progress_notable ON pipeline.progress (object, generation)
    INCLUDE (domain, stale, duplicate, rejected, corrected)
    WHERE stale > 0 OR duplicate > 0 OR rejected > 0 OR corrected > 0 OR corrections <> '{}';
