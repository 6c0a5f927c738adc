-- What stands as record 0 of a partition that a person accepted (`freshet bookmarks adopt`) although it is not the
-- stream record of its topic: `row`, `foreign`, or the id of another stream. NULL: only the stream record will do, or
-- nothing where retention has removed it.
ALTER TABLE pipeline.bookmarks ADD COLUMN accepted_beginning text;
