-- Lending: the only statements that move the border between "anyone may borrow this" and "this worker has it".
-- Lock order everywhere: worker session, account, limit window, lease, rollup.

-- Lend to a session up to `p_want`, at least `p_need`, or nothing. Repeating a borrow's id returns its first answer.
-- What is lent shrinks as the cap comes near: beyond the need never more than a quarter of what is left.
CREATE FUNCTION lend(
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
        COALESCE(SUM(l.consumed) FILTER (WHERE l.session_id = p_session_id), 0)::bigint,
        room,
        COALESCE(SUM(l.granted - l.consumed - l.returned), 0)::bigint
        FROM leases l
        WHERE l.account_id = p_account_id AND l.limit_id = p_limit_id AND l.window_start = p_window_start;
END $$;

-- Give back what a session does not use: `p_returned` is its cumulative total, so a repeated report changes nothing.
-- Never more than the lease has here: after a failover the worker may remember more than PostgreSQL does.
CREATE FUNCTION give_back(
    p_session_id uuid, p_account_id uuid, p_limit_id uuid, p_window_start timestamptz, p_returned bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    amount bigint;
BEGIN
    PERFORM FROM limit_windows w
        WHERE w.account_id = p_account_id AND w.limit_id = p_limit_id AND w.window_start = p_window_start FOR UPDATE;
    SELECT LEAST(p_returned, l.granted - l.consumed) - l.returned INTO amount FROM leases l
        WHERE l.account_id = p_account_id AND l.limit_id = p_limit_id AND l.window_start = p_window_start
          AND l.session_id = p_session_id FOR UPDATE;
    amount := GREATEST(COALESCE(amount, 0), 0);
    IF amount > 0 THEN
        UPDATE leases l SET returned = l.returned + amount, changed_at = now()
            WHERE l.account_id = p_account_id AND l.limit_id = p_limit_id AND l.window_start = p_window_start
              AND l.session_id = p_session_id;
        UPDATE limit_windows w SET drawn = w.drawn - amount
            WHERE w.account_id = p_account_id AND w.limit_id = p_limit_id AND w.window_start = p_window_start;
    END IF;
    RETURN amount;
END $$;

-- End a session whose journal is settled to its end: whatever its leases still hold returns to the limits.
-- `p_state` is `closed` (the worker itself, in order) or `proved` (the next holder of the journal's lock).
CREATE FUNCTION end_session(p_session_id uuid, p_state text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    total bigint := 0;
    lease record;
BEGIN
    PERFORM FROM worker_sessions s WHERE s.id = p_session_id AND s.state IN ('live', 'lost') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    UPDATE worker_sessions SET state = p_state, ended_at = now() WHERE id = p_session_id;
    DELETE FROM reclaims WHERE session_id = p_session_id;
    FOR lease IN
        SELECT w.account_id, w.limit_id, w.window_start FROM limit_windows w
            JOIN leases l USING (account_id, limit_id, window_start)
            WHERE l.session_id = p_session_id
            ORDER BY w.account_id, w.limit_id, w.window_start FOR UPDATE OF w
    LOOP
        WITH freed AS (
            UPDATE leases l SET returned = l.granted - l.consumed, held = 0, changed_at = now()
                FROM (SELECT * FROM leases o
                      WHERE o.account_id = lease.account_id AND o.limit_id = lease.limit_id
                        AND o.window_start = lease.window_start AND o.session_id = p_session_id FOR UPDATE) old
                WHERE l.account_id = old.account_id AND l.limit_id = old.limit_id
                  AND l.window_start = old.window_start AND l.session_id = old.session_id
                RETURNING old.granted - old.consumed - old.returned AS amount
        ), window_row AS (
            UPDATE limit_windows w SET drawn = w.drawn - freed.amount FROM freed
                WHERE w.account_id = lease.account_id AND w.limit_id = lease.limit_id
                  AND w.window_start = lease.window_start
        )
        SELECT total + freed.amount INTO total FROM freed;
    END LOOP;
    RETURN total;
END $$;

-- Take the next number of the fleet's change counter and wake whoever listens.
CREATE FUNCTION record_change(p_kind text, p_subject_id uuid) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
BEGIN
    UPDATE change_counter SET version = version + 1 RETURNING version INTO number;
    INSERT INTO changes (version, kind, subject_id) VALUES (number, p_kind, p_subject_id);
    PERFORM pg_notify('meterproxy_changes', number::text);
    RETURN number;
END $$;

-- Make the monthly partitions of `usage_events` from the month before `p_from` to `p_months` ahead of it.
CREATE FUNCTION make_usage_partitions(p_from timestamptz, p_months integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    first_day timestamp;
    name text;
    made integer := 0;
BEGIN
    FOR step IN -1..p_months LOOP
        first_day := date_trunc('month', p_from AT TIME ZONE 'UTC') + make_interval(months => step);
        name := 'usage_events_' || to_char(first_day, 'YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE %I PARTITION OF usage_events FOR VALUES FROM (%L) TO (%L)', name,
                    first_day AT TIME ZONE 'UTC', (first_day + interval '1 month') AT TIME ZONE 'UTC');
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                -- Rows of that month are in the default partition already, where they are found just as well.
                RAISE WARNING 'the default partition holds rows of %, which stay there', name;
            END;
        END IF;
    END LOOP;
    RETURN made;
END $$;
