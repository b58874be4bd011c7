-- Durable holds: what runs at a provider beyond its exchange and its worker. The hold's money is consumed from its leases
-- when it becomes durable, so that no worker's end returns it, and what was not used comes back to the limit at its end.

-- What durable holds had drawn and did not use: drawn = Σ granted − Σ returned + overrun + late − unspent.
ALTER TABLE limit_windows ADD COLUMN unspent bigint NOT NULL DEFAULT 0;
ALTER TABLE limit_windows ADD CONSTRAINT unspent_not_negative CHECK (unspent >= 0);

-- One row per hold that outlived its exchange, inserted once and ended once. It is never deleted: it is what makes a
-- deferral that a journal tells again change nothing. `placed_at` is the accept time, which the usage row will carry as
-- `occurred_at`; `subject` is the journal's own MessagePack, versioned as its records are.
-- Whoever asks the provider moves `next_poll_at` on first: that instant is its term.
CREATE TABLE durable_holds (
    account_id uuid NOT NULL,
    request_id uuid NOT NULL,
    placed_at timestamptz NOT NULL,
    resource_kind text NOT NULL,
    resource_id text NOT NULL,
    provider text NOT NULL,
    operation text NOT NULL,
    model text NOT NULL,
    price_id uuid NOT NULL,
    hold_nanos bigint NOT NULL,
    subject bytea NOT NULL,
    input_estimate bigint,
    state text NOT NULL DEFAULT 'open',
    next_poll_at timestamptz NOT NULL DEFAULT now() + interval '1 second',
    amount_nanos bigint,
    ended_at timestamptz,
    PRIMARY KEY (account_id, request_id),
    CONSTRAINT durable_state_is_known CHECK (state IN ('open', 'captured', 'released', 'recovered')),
    CONSTRAINT open_means_not_ended CHECK ((state = 'open') = (ended_at IS NULL)),
    CONSTRAINT ended_means_charged CHECK ((state = 'open') = (amount_nanos IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX durable_holds_due ON durable_holds (next_poll_at) WHERE state = 'open';
CREATE INDEX durable_holds_open ON durable_holds (account_id, resource_kind, resource_id) WHERE state = 'open';
CREATE INDEX durable_holds_by_request ON durable_holds (request_id);

-- What each has drawn from which limit windows.
CREATE TABLE durable_draws (
    account_id uuid NOT NULL,
    request_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    window_start timestamptz NOT NULL,
    session_id uuid NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (account_id, request_id, limit_id, window_start),
    CONSTRAINT durable_draw_not_negative CHECK (amount >= 0)
);
