-- Hosts that do not come back, and a database that may have forgotten what it confirmed.

-- When the rate limits came back that a lost session had leased. From then on it cannot come back to life.
ALTER TABLE worker_sessions ADD COLUMN rates_returned_at timestamptz;
ALTER TABLE worker_sessions ADD CONSTRAINT only_the_lost_return_rates
    CHECK (rates_returned_at IS NULL OR state <> 'live');

-- Which life of the database this is. Whenever it may have forgotten something (a replica was promoted, a backup was
-- restored, a worker remembers more than it does) a new one begins: nobody is lent to until `paused_until`, and each
-- worker presents what it was lent in the earlier life. `identity` is where that is known from: cluster and timeline.
ALTER TABLE fleet_state
    ADD COLUMN life uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN life_began_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN identity text NOT NULL DEFAULT '';

-- Cluster and timeline that this database is written in; NULL where that cannot be told (on a standby, or where a
-- managed PostgreSQL does not say). Nothing in it needs more than an ordinary user.
CREATE FUNCTION database_identity() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;  -- other signs have to do
END $$;

UPDATE fleet_state SET identity = COALESCE(database_identity(), '');

-- The life that workers may rely on; NULL where the database is another than the one that wrote it down.
CREATE FUNCTION known_life() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT life FROM fleet_state WHERE identity = COALESCE(database_identity(), identity)
$$;

-- Begin a new life where this database is another than it was, or where a worker has found that something is missing in
-- life `p_missed`; of all who find that, the first one does. Answers the life there is, and whether lending pauses.
CREATE FUNCTION meet_database(p_missed uuid, p_ttl_seconds double precision)
RETURNS TABLE (life uuid, paused boolean) LANGUAGE plpgsql AS $$
DECLARE
    here text := database_identity();
BEGIN
    UPDATE fleet_state d SET life = gen_random_uuid(), identity = COALESCE(here, d.identity), life_began_at = now(),
            paused_until = GREATEST(d.paused_until, clock_timestamp() + make_interval(secs => p_ttl_seconds))
        WHERE d.identity <> COALESCE(here, d.identity) OR d.life = p_missed;
    IF FOUND THEN
        INSERT INTO audit_log (actor, action, subject_kind, detail)
            VALUES ('system', 'database.new_life', 'database', jsonb_build_object('identity', here));
    END IF;
    RETURN QUERY SELECT d.life, COALESCE(d.paused_until > clock_timestamp(), false) FROM fleet_state d;
END $$;

-- Whoever lends, lends in a life that is known and not paused. A guard of its own, because a promoted replica must not lend
-- before the first worker has met it; `lend` may refuse sooner, with the same code.
CREATE FUNCTION refuse_to_lend_in_an_unknown_life() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('meterproxy.presenting', true) = 'on' THEN
        RETURN NULL;  -- what is presented was lent already
    END IF;
    PERFORM FROM fleet_state WHERE identity = COALESCE(database_identity(), identity)
        AND (paused_until IS NULL OR paused_until <= clock_timestamp());
    IF NOT FOUND THEN
        RAISE EXCEPTION 'nobody is lent to right now' USING ERRCODE = 'MP003';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER leases_are_lent_in_a_known_life BEFORE INSERT OR UPDATE OF granted ON leases
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_lend_in_an_unknown_life();

-- A session tells again what it was lent and has returned, as totals of which the higher one counts. What is new of that
-- is drawn from the limits even above their caps: it may be spent already. What was consumed is not told: the journal
-- sends those rows again, and they count it. Answers how much the database had forgotten, in the limits' measures.
CREATE FUNCTION present_leases(
    p_session_id uuid, p_accounts uuid[], p_limits uuid[], p_windows timestamptz[], p_granted bigint[], p_returned bigint[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    forgotten bigint;
BEGIN
    PERFORM set_config('meterproxy.presenting', 'on', true);
    INSERT INTO limit_windows (account_id, limit_id, window_start, cap)
        SELECT t.account_id, t.limit_id, t.window_start, lends_to(c)
        FROM unnest(p_accounts, p_limits, p_windows) AS t (account_id, limit_id, window_start)
        JOIN limits c ON c.id = t.limit_id AND c.account_id = t.account_id
        WHERE c.kind <> 'credit'
        ORDER BY 1, 2, 3 FOR SHARE OF c ON CONFLICT DO NOTHING;
    PERFORM FROM limit_windows w
        JOIN unnest(p_accounts, p_limits, p_windows) AS t (account_id, limit_id, window_start)
            USING (account_id, limit_id, window_start)
        ORDER BY w.account_id, w.limit_id, w.window_start FOR UPDATE OF w;
    PERFORM FROM leases l WHERE l.session_id = p_session_id
        ORDER BY l.account_id, l.limit_id, l.window_start FOR UPDATE;
    WITH told AS (
        SELECT t.account_id, t.limit_id, t.window_start, GREATEST(t.granted, COALESCE(l.granted, 0)) AS granted,
            GREATEST(LEAST(t.returned, GREATEST(t.granted, COALESCE(l.granted, 0)) - COALESCE(l.consumed, 0)),
                COALESCE(l.returned, 0)) AS returned,
            COALESCE(l.granted, 0) AS granted_before, COALESCE(l.returned, 0) AS returned_before
        FROM unnest(p_accounts, p_limits, p_windows, p_granted, p_returned)
            AS t (account_id, limit_id, window_start, granted, returned)
        JOIN limit_windows w USING (account_id, limit_id, window_start)
        LEFT JOIN leases l ON (l.account_id, l.limit_id, l.window_start, l.session_id)
            = (t.account_id, t.limit_id, t.window_start, p_session_id)
    ), rows AS (
        INSERT INTO leases AS l
            (account_id, limit_id, window_start, session_id, granted, returned, last_borrow_id, last_granted)
        SELECT account_id, limit_id, window_start, p_session_id, granted, returned, gen_random_uuid(), 0 FROM told
        ON CONFLICT ON CONSTRAINT leases_pkey DO UPDATE SET
            granted = excluded.granted, returned = excluded.returned, changed_at = now()
    ), windows AS (
        UPDATE limit_windows w
        SET drawn = w.drawn + (t.granted - t.granted_before) - (t.returned - t.returned_before) FROM told t
        WHERE (w.account_id, w.limit_id, w.window_start) = (t.account_id, t.limit_id, t.window_start)
          AND (t.granted, t.returned) <> (t.granted_before, t.returned_before)
    )
    SELECT COALESCE(sum(granted - granted_before), 0) INTO forgotten FROM told;
    PERFORM set_config('meterproxy.presenting', 'off', true);
    RETURN forgotten;
END $$;

-- Rate limits come back by themselves: what a lost session had leased of requests, tokens or concurrency cannot be in use
-- any more. Its money stays out of the pot.
CREATE FUNCTION return_rates(p_session_id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE worker_sessions SET rates_returned_at = now()
        WHERE id = p_session_id AND state = 'lost' AND rates_returned_at IS NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM FROM limit_windows w JOIN leases l USING (account_id, limit_id, window_start) JOIN limits c ON c.id = l.limit_id
        WHERE l.session_id = p_session_id AND c.measure <> 'amount'
        ORDER BY w.account_id, w.limit_id, w.window_start FOR UPDATE OF w;
    WITH freed AS (
        UPDATE leases l SET returned = l.granted - l.consumed, held = 0, changed_at = now()
        FROM (SELECT o.* FROM leases o JOIN limits c ON c.id = o.limit_id
              WHERE o.session_id = p_session_id AND c.measure <> 'amount' AND o.granted > o.consumed + o.returned
              FOR UPDATE OF o) old
        WHERE (l.account_id, l.limit_id, l.window_start, l.session_id)
            = (old.account_id, old.limit_id, old.window_start, old.session_id)
        RETURNING old.account_id, old.limit_id, old.window_start, old.granted - old.consumed - old.returned AS amount
    )
    UPDATE limit_windows w SET drawn = w.drawn - f.amount FROM freed f
    WHERE (w.account_id, w.limit_id, w.window_start) = (f.account_id, f.limit_id, f.window_start);
END $$;
