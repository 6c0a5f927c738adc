-- What the listeners know of the queue that the store tells through, so that whoever shows the state need not ask it.

CREATE TABLE pipeline.event_queue (
    -- Its address.
    queue text PRIMARY KEY,
    -- When it last answered a listener; NULL if it never has.
    answered_at timestamptz,
    -- Why it did not answer the last time; NULL while it answers.
    failure text,
    failed_at timestamptz,
    -- Messages in it, about so many: those that wait, and those that somebody took and has not settled. NULL where the
    -- listener may not ask.
    waiting bigint,
    taken bigint,
    -- When it last gave a message.
    last_message_at timestamptz,
    -- What became of its messages, of all listeners together.
    settled bigint NOT NULL DEFAULT 0,
    other bigint NOT NULL DEFAULT 0,
    come_again bigint NOT NULL DEFAULT 0,
    unreadable bigint NOT NULL DEFAULT 0
);
