-- Whoever shows what the files of the last day came to reads these alone.
CREATE INDEX objects_applied_at ON pipeline.objects (applied_at) WHERE applied_at IS NOT NULL;
