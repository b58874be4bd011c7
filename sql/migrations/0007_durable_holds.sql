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

-- What of a lease's `consumed` became durable holds and may come back, in all.
ALTER TABLE leases ADD COLUMN deferred bigint NOT NULL DEFAULT 0;
ALTER TABLE leases ADD CONSTRAINT deferred_is_part_of_consumed CHECK (deferred BETWEEN 0 AND consumed);

-- What open durable holds have drawn from a limit window.
CREATE FUNCTION held_durably(p_account_id uuid, p_limit_id uuid, p_window_start timestamptz) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT COALESCE(sum(d.amount), 0)::bigint
    FROM durable_holds h JOIN durable_draws d USING (account_id, request_id)
    WHERE h.account_id = p_account_id AND h.state = 'open'
      AND d.limit_id = p_limit_id AND d.window_start = p_window_start
$$;

-- Lend to a session up to `p_want`, at least `p_need`, or nothing. Repeating a borrow's id returns its first answer.
-- What is lent shrinks as the cap comes near: beyond the need never more than a quarter of what is left.
-- `outstanding` is all that may come back, durable holds among it, and `consumed` all that may not, so that nobody is told
-- that his credit is spent which is merely held.
CREATE OR REPLACE FUNCTION lend(
    p_session_id uuid, p_borrow_id uuid, p_account_id uuid, p_limit_id uuid, p_window_start timestamptz,
    p_need bigint, p_want bigint
) RETURNS TABLE (granted bigint, total_granted bigint, consumed bigint, rest bigint, outstanding bigint)
LANGUAGE plpgsql AS $$
DECLARE
    room bigint;
    amount bigint := 0;
    earlier leases%ROWTYPE;
BEGIN
    PERFORM FROM worker_sessions s WHERE s.id = p_session_id AND s.state = 'live' FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'worker session % is over', p_session_id USING ERRCODE = 'MP001';
    END IF;
    SELECT w.cap - w.drawn INTO room FROM limit_windows w
        WHERE w.account_id = p_account_id AND w.limit_id = p_limit_id AND w.window_start = p_window_start FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'limit window %/% does not exist', p_limit_id, p_window_start USING ERRCODE = 'MP002';
    END IF;
    SELECT * INTO earlier FROM leases l
        WHERE l.account_id = p_account_id AND l.limit_id = p_limit_id AND l.window_start = p_window_start
          AND l.session_id = p_session_id;
    IF FOUND AND earlier.last_borrow_id = p_borrow_id THEN
        amount := earlier.last_granted;
    ELSIF p_need > 0 AND room >= p_need THEN
        amount := GREATEST(p_need, LEAST(p_want, room / 4));
        UPDATE limit_windows w SET drawn = w.drawn + amount
            WHERE w.account_id = p_account_id AND w.limit_id = p_limit_id AND w.window_start = p_window_start
              AND w.drawn + amount <= w.cap;
        ASSERT FOUND, 'the window is locked, so what fitted must still fit';
        INSERT INTO leases AS l
            (account_id, limit_id, window_start, session_id, granted, last_borrow_id, last_granted)
            VALUES (p_account_id, p_limit_id, p_window_start, p_session_id, amount, p_borrow_id, amount)
            ON CONFLICT ON CONSTRAINT leases_pkey DO UPDATE SET
                granted = l.granted + amount, last_borrow_id = p_borrow_id, last_granted = amount, changed_at = now();
        DELETE FROM reclaims r
            WHERE r.account_id = p_account_id AND r.limit_id = p_limit_id AND r.window_start = p_window_start
              AND r.session_id = p_session_id;
        room := room - amount;
    END IF;
    RETURN QUERY SELECT amount,
        COALESCE(SUM(l.granted) FILTER (WHERE l.session_id = p_session_id), 0)::bigint,
        COALESCE(SUM(l.consumed - l.deferred) FILTER (WHERE l.session_id = p_session_id), 0)::bigint,
        room,
        COALESCE(SUM(l.granted - l.consumed - l.returned), 0)::bigint
            + held_durably(p_account_id, p_limit_id, p_window_start)
        FROM leases l
        WHERE l.account_id = p_account_id AND l.limit_id = p_limit_id AND l.window_start = p_window_start;
END $$;
