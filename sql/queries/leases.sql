-- Worker sessions and what is lent to them.

-- name: open_session
-- May be repeated where its answer got lost, however much later: who was taken for lost meanwhile lives on. No row: the
-- session was ended by somebody else.
INSERT INTO worker_sessions AS s (id, journal_id, host, slot, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
ON CONFLICT (id) DO UPDATE SET state = 'live', expires_at = excluded.expires_at
WHERE s.state = 'live' OR s.state = 'lost' AND s.rates_returned_at IS NULL RETURNING clock_timestamp() AS now

-- name: meet_database
-- Which life of the database this is; begins a new one where it must. See the function.
SELECT life, paused FROM meet_database($1, $2)

-- name: renew_session
-- A lost session that is heard of again lives on. No row: ask why.
UPDATE worker_sessions SET state = 'live', expires_at = now() + make_interval(secs => $2)
WHERE id = $1 AND (state = 'live' OR state = 'lost' AND rates_returned_at IS NULL) AND known_life() = $3
RETURNING clock_timestamp() AS now

-- name: session_is_over
-- Whether somebody has ended a session. One that is not known was forgotten: sessions are never deleted.
SELECT EXISTS (SELECT FROM worker_sessions
               WHERE id = $1 AND (state NOT IN ('live', 'lost') OR rates_returned_at IS NOT NULL))

-- name: present_session
-- As `open_session`, in the life that is being presented to. No row: ask why.
INSERT INTO worker_sessions AS s (id, journal_id, host, slot, expires_at)
SELECT $1, $2, $3, $4, now() + make_interval(secs => $5) WHERE known_life() = $6
ON CONFLICT (id) DO UPDATE SET state = 'live', expires_at = excluded.expires_at
WHERE s.state = 'live' OR s.state = 'lost' AND s.rates_returned_at IS NULL
RETURNING clock_timestamp() AS now

-- name: present_leases
SELECT present_leases($1, $2, $3, $4, $5, $6)

-- name: abandoned_sessions
-- Whose money an operator has given up: what this journal says of them is late.
SELECT id FROM worker_sessions WHERE journal_id = $1 AND state = 'abandoned'

-- name: earlier_sessions
-- Whose money the holder of this journal's lock can prove.
SELECT id FROM worker_sessions WHERE journal_id = $1 AND id <> $2 AND state IN ('live', 'lost') ORDER BY id

-- name: end_session
SELECT end_session($1, $2)

-- name: lend
SELECT granted, total_granted, total_returned, consumed, rest, outstanding FROM lend($1, $2, $3, $4, $5, $6, $7)
ORDER BY number

-- name: read_rests
-- What is left of limits, what is lent out or held durably and may come back, and what of the session's own may not. Of a
-- window that nobody has needed yet all is left.
SELECT COALESCE(w.cap - w.drawn, lends_to(c), 0) AS rest,
    COALESCE(sum(l.granted - l.consumed - l.returned), 0)::bigint
        + held_durably(k.account_id, k.limit_id, k.window_start) AS outstanding,
    COALESCE(sum(l.consumed - l.deferred) FILTER (WHERE l.session_id = $4), 0)::bigint AS consumed
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) WITH ORDINALITY AS k (account_id, limit_id, window_start, number)
LEFT JOIN limits c ON (c.account_id, c.id) = (k.account_id, k.limit_id)
LEFT JOIN limit_windows w ON (w.account_id, w.limit_id, w.window_start) = (k.account_id, k.limit_id, k.window_start)
LEFT JOIN leases l ON (l.account_id, l.limit_id, l.window_start) = (k.account_id, k.limit_id, k.window_start)
GROUP BY k.number, k.account_id, k.limit_id, k.window_start, w.cap, w.drawn, c.*
ORDER BY k.number

-- name: give_back
-- One call for each lease, in the order of all locks.
SELECT give_back($1, r.account_id, r.limit_id, r.window_start, r.returned)
FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[]) AS r (account_id, limit_id, window_start, returned)

-- name: report_held
-- For reading only: balances show what is held. A session that has ended holds nothing, however late it reports.
WITH locked AS (
    SELECT l.account_id, l.limit_id, l.window_start, r.held
    FROM leases l JOIN unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[])
        AS r (account_id, limit_id, window_start, held) USING (account_id, limit_id, window_start)
    WHERE l.session_id = $1 AND EXISTS (SELECT FROM worker_sessions s WHERE s.id = $1 AND s.state = 'live')
    ORDER BY l.account_id, l.limit_id, l.window_start FOR UPDATE OF l
)
UPDATE leases l SET held = locked.held, changed_at = now() FROM locked
WHERE (l.account_id, l.limit_id, l.window_start) = (locked.account_id, locked.limit_id, locked.window_start)
  AND l.session_id = $1

-- name: ask_reclaim
-- Stand in line, or stay there; who has not been heard of for three seconds stands at its end again.
INSERT INTO reclaims AS r (account_id, limit_id, window_start, session_id, wanted, asked_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp())
ON CONFLICT (account_id, limit_id, window_start, session_id) DO UPDATE SET wanted = excluded.wanted,
    asked_at = excluded.asked_at,
    since = CASE WHEN r.asked_at > excluded.asked_at - interval '3 seconds' THEN r.since ELSE excluded.since END

-- name: end_reclaim
DELETE FROM reclaims WHERE account_id = $1 AND limit_id = $2 AND window_start = $3 AND session_id = $4

-- name: poll
-- One look at all that a worker must hear of: changes since the version it knows, others who wait for its leases, what it
-- waits for itself and can have now, and
-- where the counter stands (a failover may have set it back) in which life of the database.
SELECT 'change' AS topic, version, kind, subject_id, account_id, NULL::timestamptz AS window_start
FROM changes WHERE version > $2
UNION ALL
SELECT DISTINCT 'reclaim', 0, '', r.limit_id, r.account_id, r.window_start
FROM reclaims r JOIN leases l USING (account_id, limit_id, window_start)
WHERE l.session_id = $1 AND l.granted > l.consumed + l.returned AND r.session_id <> $1
  AND r.asked_at > clock_timestamp() - interval '3 seconds'
UNION ALL
SELECT 'served', 0, '', r.limit_id, r.account_id, r.window_start
FROM reclaims r JOIN limit_windows w USING (account_id, limit_id, window_start)
WHERE r.session_id = $1
  AND w.cap - w.drawn >= r.wanted + set_aside($1, r.account_id, r.limit_id, r.window_start)
UNION ALL
SELECT 'version', version, COALESCE(known_life()::text, ''), NULL, NULL, NULL FROM change_counter
ORDER BY 2

-- name: change_version
SELECT version FROM change_counter
