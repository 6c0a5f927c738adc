ALTER TABLE pipeline.objects
    -- Frozen per (object, generation): a hash of what the contract and the settings say of where rows begin and which number
    -- each gets. NULL until a listener that knows of it claims the object: it takes over what an older one had begun.
    ADD COLUMN reading_rules bigint;
