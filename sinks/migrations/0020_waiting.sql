-- Files that never were published go before those that are sent again, each class in the order of its domain: a claim
-- reads either from its beginning, whatever waits in the other.
DROP INDEX pipeline.objects_waiting;
CREATE INDEX objects_waiting ON pipeline.objects (domain, (repairs > 0), src_ord)
    WHERE state IN ('discovered', 'publishing');
