-- Usage that did not pass here: which events were logged, so that each is booked once however often it is told.

-- `digest` is of all that was said of it; `claimed_until` is for how long one call has it to itself.
CREATE TABLE logged_events (
    account_id uuid NOT NULL REFERENCES accounts (id),
    event_id text NOT NULL,
    digest bytea NOT NULL,
    request_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    claimed_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, event_id),
    CONSTRAINT event_digest_is_sha256 CHECK (length(digest) = 32)
);
CREATE INDEX logged_events_by_age ON logged_events (created_at);
