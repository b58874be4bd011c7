-- Money: limits, the leases lent from them, the ledger, and how far each journal has been settled.

-- Anything with a cap that requests draw from. Credit is the limit of kind `credit`: its cap is kept on its window.
CREATE TABLE limits (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    kind text NOT NULL,
    scope text NOT NULL,
    scope_id uuid NOT NULL,
    measure text NOT NULL,
    operation text,
    model_pattern text,
    window_kind text NOT NULL,
    time_zone text NOT NULL DEFAULT 'UTC',
    cap bigint,
    enforcement text NOT NULL DEFAULT 'hard',
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz,
    CONSTRAINT limit_kind_is_known CHECK (kind IN ('credit', 'budget', 'rate')),
    CONSTRAINT limit_scope_is_known CHECK (scope IN ('account', 'organization', 'team', 'user', 'key')),
    CONSTRAINT limit_measure_is_known CHECK (measure IN ('amount', 'requests', 'tokens', 'concurrent')),
    CONSTRAINT limit_window_is_known CHECK (window_kind IN ('none', 'minute', 'hour', 'day', 'week', 'month', 'total')),
    CONSTRAINT limit_enforcement_is_known CHECK (enforcement IN ('hard', 'soft')),
    CONSTRAINT credit_has_no_window CHECK (kind <> 'credit' OR (window_kind = 'none' AND measure = 'amount'))
);
CREATE UNIQUE INDEX account_has_one_credit_limit ON limits (account_id) WHERE kind = 'credit';

-- One row per limit and window. `drawn` = Σ granted − Σ returned + Σ overrun + Σ late; lending is the only statement
-- that raises it under a condition, and the condition is drawn + x <= cap.
CREATE TABLE limit_windows (
    account_id uuid NOT NULL,
    limit_id uuid NOT NULL REFERENCES limits (id),
    window_start timestamptz NOT NULL,
    cap bigint NOT NULL,
    drawn bigint NOT NULL DEFAULT 0,
    overrun bigint NOT NULL DEFAULT 0,
    late bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (account_id, limit_id, window_start),
    CONSTRAINT drawn_not_negative CHECK (drawn >= 0)
) WITH (fillfactor = 70);

-- One life of one worker: trust belongs to it, leases are lent to it.
CREATE TABLE worker_sessions (
    id uuid PRIMARY KEY,
    journal_id uuid NOT NULL,
    host text NOT NULL,
    slot integer NOT NULL,
    state text NOT NULL DEFAULT 'live',
    started_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT session_state_is_known CHECK (state IN ('live', 'closed', 'proved', 'lost', 'abandoned')),
    CONSTRAINT live_means_not_ended CHECK ((state IN ('live', 'lost')) = (ended_at IS NULL))
);
CREATE INDEX worker_sessions_by_journal ON worker_sessions (journal_id) WHERE state IN ('live', 'lost');

-- Cumulative totals only: a repeated report changes nothing. `held` is for reading, as last reported.
CREATE TABLE leases (
    account_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    window_start timestamptz NOT NULL,
    session_id uuid NOT NULL REFERENCES worker_sessions (id),
    granted bigint NOT NULL DEFAULT 0,
    consumed bigint NOT NULL DEFAULT 0,
    returned bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    last_borrow_id uuid NOT NULL,
    last_granted bigint NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, limit_id, window_start, session_id),
    CONSTRAINT lease_outstanding_not_negative CHECK (granted >= consumed + returned),
    CONSTRAINT lease_amounts_not_negative CHECK (consumed >= 0 AND returned >= 0 AND held >= 0)
) WITH (fillfactor = 70);
CREATE INDEX leases_by_session ON leases (session_id);

-- A borrower that found nothing left asks the holders to give back what they do not use.
CREATE TABLE reclaims (
    account_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    window_start timestamptz NOT NULL,
    session_id uuid NOT NULL REFERENCES worker_sessions (id),
    wanted bigint NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, limit_id, window_start, session_id)
);

-- How far a journal has been settled, by compare-and-set. Replay starts at `open_from`, the place record of the oldest
-- hold that was still open when `position` was reached.
CREATE TABLE journal_progress (
    journal_id uuid PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0,
    open_from bigint NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT replay_starts_at_or_before_position CHECK (open_from <= position)
) WITH (fillfactor = 50);

CREATE TABLE ledger_entries (
    account_id uuid NOT NULL REFERENCES accounts (id),
    entry_no bigint NOT NULL,
    kind text NOT NULL,
    amount_nanos bigint NOT NULL,
    balance_after_nanos bigint NOT NULL,
    request_id uuid,
    description text NOT NULL DEFAULT '',
    actor text NOT NULL DEFAULT '',
    idempotency_key text,
    idempotency_digest bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, entry_no),
    CONSTRAINT entry_kind_is_known CHECK
        (kind IN ('grant', 'purchase', 'deduction', 'overrun', 'refund', 'adjustment', 'expiry')),
    CONSTRAINT usage_entries_name_their_request CHECK ((kind IN ('deduction', 'overrun')) = (request_id IS NOT NULL)),
    CONSTRAINT usage_entries_lower_the_balance CHECK (kind NOT IN ('deduction', 'overrun') OR amount_nanos < 0),
    CONSTRAINT entry_changes_something CHECK (amount_nanos <> 0)
);
CREATE UNIQUE INDEX request_is_charged_once ON ledger_entries (account_id, request_id, kind) WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX entry_is_made_once ON ledger_entries (account_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: corrections are new entries', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_entries_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Every price that was ever charged, by the hash of its content; rows are never changed.
CREATE TABLE prices (
    id uuid PRIMARY KEY,
    provider text NOT NULL,
    model text NOT NULL,
    document jsonb NOT NULL,
    first_used_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER prices_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
