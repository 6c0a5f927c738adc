-- A version may be registered in several domains, one after the other: a contract was renamed, or another one names the key
-- now.
DROP INDEX pipeline.objects_version;
CREATE UNIQUE INDEX objects_version ON pipeline.objects (bucket, key, version_id, domain) WHERE version_id IS NOT NULL;
