-- Versions that were given up as gone and never read: the sweep looks whether rows of them arrive all the same.
CREATE INDEX objects_given_up ON pipeline.objects (domain, id)
    WHERE state = 'superseded' AND cause->>'kind' = 'gone' AND cause->>'lost' = 'nothing';
