-- The object ledger decides by values: why an object is in its state, and intervals instead of moments, so that a
-- clock that jumps makes no lease and no wait longer.

ALTER TABLE pipeline.objects
    -- Why it is in its state, for programs; `reason` is the same for people.
    ADD COLUMN cause jsonb,
    -- A lease holds from lease_from until lease_until, and not before: the clock may go back.
    ADD COLUMN lease_from timestamptz,
    -- Nobody takes the object from wait_from until next_attempt_at.
    ADD COLUMN wait_from timestamptz;

UPDATE pipeline.objects SET cause = CASE
    WHEN reason LIKE 'same content as object %'
        THEN jsonb_build_object('kind', 'same_content', 'object', substring(reason FROM '\d+')::bigint)
    WHEN state = 'superseded'
        THEN jsonb_build_object('kind', 'gone', 'detail', coalesce(reason, ''), 'lost', 'nothing')
    WHEN state = 'rejected' THEN jsonb_build_object('kind', 'unreadable', 'detail', coalesce(reason, ''))
    ELSE jsonb_build_object('kind', 'failed', 'detail', reason)
    END
WHERE reason IS NOT NULL OR state IN ('rejected', 'superseded');

-- The same ETag, size and second do not make it the same version when another came between.
DROP INDEX pipeline.objects_content;
