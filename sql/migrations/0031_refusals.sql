-- Refusals: how often each limit (credit is one) has refused requests in its latest window, and what of the last one. Told by
-- workers every few seconds; a worker that is killed takes what it had not told with it. Nothing here refers to rows that
-- settling locks.
CREATE TABLE limit_refusals (
    limit_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    window_start timestamptz NOT NULL,
    refused bigint NOT NULL,
    last_at timestamptz NOT NULL,
    last_key_id uuid NOT NULL,
    last_amount bigint NOT NULL,
    CONSTRAINT refused_at_least_once CHECK (refused > 0)
) WITH (fillfactor = 70);
CREATE INDEX limit_refusals_by_account ON limit_refusals (account_id, last_at);
