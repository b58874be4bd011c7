-- One mechanism for credit, budgets and rate limits: lending from several windows at once, and draws of several measures.

-- A window of a limit without a cap only counts.
ALTER TABLE limit_windows ALTER COLUMN cap DROP NOT NULL;

-- Those who wait for a limit stand in line by `since`. What they want is set aside: nobody who came later is lent it. A
-- wish that was not told again for three seconds is none any more.
ALTER TABLE reclaims ADD COLUMN since timestamptz NOT NULL DEFAULT clock_timestamp();

-- What is set aside for others who wait longer for a limit window than a session does, which may not wait at all.
CREATE FUNCTION set_aside(p_session_id uuid, p_account_id uuid, p_limit_id uuid, p_window_start timestamptz)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT COALESCE(sum(r.wanted), 0)::bigint FROM reclaims r
    LEFT JOIN reclaims own ON (own.account_id, own.limit_id, own.window_start) = (r.account_id, r.limit_id, r.window_start)
        AND own.session_id = p_session_id AND own.asked_at > clock_timestamp() - interval '3 seconds'
    WHERE r.account_id = p_account_id AND r.limit_id = p_limit_id AND r.window_start = p_window_start
      AND r.session_id <> p_session_id AND r.asked_at > clock_timestamp() - interval '3 seconds'
      AND (own.session_id IS NULL OR (r.since, r.session_id) < (own.since, own.session_id))
$$;

-- Where upkeep finds windows that ended long ago.
CREATE INDEX limit_windows_by_start ON limit_windows (window_start) WHERE window_start > 'epoch';

-- What a batch adds to limits that nothing is lent from.
ALTER TABLE draw_staging ADD COLUMN counted bigint NOT NULL DEFAULT 0;

-- What each draw of a durable hold has consumed of what was held, once the hold has ended.
ALTER TABLE durable_draws ADD COLUMN consumed bigint;
UPDATE durable_draws d SET consumed = LEAST(h.amount_nanos, d.amount) FROM durable_holds h
WHERE (h.account_id, h.request_id) = (d.account_id, d.request_id) AND h.state <> 'open';

-- How far a limit lends: a hard one goes on beyond its cap by its grace. NULL: it has no cap.
CREATE FUNCTION lends_to(l limits) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN l.enforcement = 'hard' THEN l.cap + l.grace ELSE l.cap END
$$;

-- Lend to a session from several limit windows: of each up to its want, at least its need, or nothing; each is answered by
-- itself, in the order given. Repeating a borrow's id returns its first answer. What is lent shrinks as the cap comes near:
-- beyond the need never more than a quarter of what is left, and never what is set aside for others.
--
-- The first who needs a window makes its row, under a lock on its limit, so that a cap that is being changed reaches it.
-- A limit that was just retired or lost its cap goes on lending until workers have heard of that.
-- `outstanding` is all that may come back, durable holds among it, and `consumed` all that may not, so that nobody is told
-- that his credit is spent which is merely held.
DROP FUNCTION lend(uuid, uuid, uuid, uuid, timestamptz, bigint, bigint);
CREATE FUNCTION lend(
    p_session_id uuid, p_borrow_ids uuid[], p_account_ids uuid[], p_limit_ids uuid[], p_window_starts timestamptz[],
    p_needs bigint[], p_wants bigint[]
) RETURNS TABLE (
    number bigint, granted bigint, total_granted bigint, total_returned bigint, consumed bigint, rest bigint,
    outstanding bigint
) LANGUAGE plpgsql AS $$
DECLARE
    wish record;
    amount bigint;
    room bigint;
    stopped boolean;
    earlier leases%ROWTYPE;
BEGIN
    PERFORM FROM worker_sessions s WHERE s.id = p_session_id AND s.state = 'live' FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'worker session % is over', p_session_id USING ERRCODE = 'MP001';
    END IF;
    SELECT NOT f.lending OR COALESCE(f.paused_until > now(), false) INTO stopped FROM fleet_state f;
    INSERT INTO limit_windows (account_id, limit_id, window_start, cap)
        SELECT w.account_id, w.limit_id, w.window_start, lends_to(c)
        FROM unnest(p_account_ids, p_limit_ids, p_window_starts) AS w (account_id, limit_id, window_start)
        JOIN limits c ON c.id = w.limit_id AND c.account_id = w.account_id
        WHERE c.kind <> 'credit' AND NOT EXISTS (SELECT FROM limit_windows x
            WHERE (x.account_id, x.limit_id, x.window_start) = (w.account_id, w.limit_id, w.window_start))
        ORDER BY 1, 2, 3 FOR SHARE OF c
        ON CONFLICT DO NOTHING;
    FOR wish IN
        SELECT w.*, x.cap, x.drawn
        FROM unnest(p_borrow_ids, p_account_ids, p_limit_ids, p_window_starts, p_needs, p_wants) WITH ORDINALITY
            AS w (borrow_id, account_id, limit_id, window_start, need, want, place)
        JOIN limit_windows x USING (account_id, limit_id, window_start)
        ORDER BY w.account_id, w.limit_id, w.window_start FOR UPDATE OF x
    LOOP
        amount := 0;
        number := wish.place;
        rest := COALESCE(wish.cap, 4611686018427387904) - wish.drawn;
        room := rest - set_aside(p_session_id, wish.account_id, wish.limit_id, wish.window_start);
        SELECT * INTO earlier FROM leases l
            WHERE l.account_id = wish.account_id AND l.limit_id = wish.limit_id AND l.window_start = wish.window_start
              AND l.session_id = p_session_id;
        IF FOUND AND earlier.last_borrow_id = wish.borrow_id THEN
            amount := earlier.last_granted;
        ELSIF wish.need > 0 AND room >= wish.need THEN
            IF stopped THEN
                RAISE EXCEPTION 'nobody is lent to right now' USING ERRCODE = 'MP003';
            END IF;
            amount := GREATEST(wish.need, LEAST(wish.want, room / 4));
            UPDATE limit_windows w SET drawn = w.drawn + amount
                WHERE w.account_id = wish.account_id AND w.limit_id = wish.limit_id
                  AND w.window_start = wish.window_start AND (w.cap IS NULL OR w.drawn + amount <= w.cap);
            ASSERT FOUND, 'the window is locked, so what fitted must still fit';
            INSERT INTO leases AS l
                (account_id, limit_id, window_start, session_id, granted, last_borrow_id, last_granted)
                VALUES (wish.account_id, wish.limit_id, wish.window_start, p_session_id, amount, wish.borrow_id, amount)
                ON CONFLICT ON CONSTRAINT leases_pkey DO UPDATE SET
                    granted = l.granted + amount, last_borrow_id = wish.borrow_id, last_granted = amount,
                    changed_at = now();
            DELETE FROM reclaims r
                WHERE r.account_id = wish.account_id AND r.limit_id = wish.limit_id
                  AND r.window_start = wish.window_start AND r.session_id = p_session_id;
            rest := rest - amount;
        END IF;
        granted := amount;
        SELECT COALESCE(SUM(l.granted) FILTER (WHERE l.session_id = p_session_id), 0)::bigint,
            COALESCE(SUM(l.returned) FILTER (WHERE l.session_id = p_session_id), 0)::bigint,
            COALESCE(SUM(l.consumed - l.deferred) FILTER (WHERE l.session_id = p_session_id), 0)::bigint,
            COALESCE(SUM(l.granted - l.consumed - l.returned), 0)::bigint
                + held_durably(wish.account_id, wish.limit_id, wish.window_start)
            INTO total_granted, total_returned, consumed, outstanding
            FROM leases l
            WHERE l.account_id = wish.account_id AND l.limit_id = wish.limit_id AND l.window_start = wish.window_start;
        RETURN NEXT;
    END LOOP;
END $$;
