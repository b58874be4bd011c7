-- Sessions whose worker does not come back.

-- name: list_sessions
-- Sessions that have not ended, the lost ones first; `credit_nanos` is money of accounts that they keep out of the pot.
SELECT s.id AS session_id, s.journal_id, s.host, s.slot, s.state, s.started_at, s.expires_at, COALESCE((
        SELECT sum(l.granted - l.consumed - l.returned)
        FROM leases l JOIN limits c ON c.id = l.limit_id AND c.kind = 'credit' WHERE l.session_id = s.id), 0)::bigint
    AS credit_nanos, s.expires_at > now() AS trusted
FROM worker_sessions s WHERE s.state IN ('live', 'lost') ORDER BY s.state DESC, s.expires_at, s.id

-- name: mark_lost
-- Sessions that have not been heard of for a ttl after their trust ran out, unless the database itself was away or has
-- begun a new life within the last ttl: then their workers may just not have come back to it yet. Each gets a line in the
-- audit log.
WITH lost AS (
    UPDATE worker_sessions s SET state = 'lost'
    WHERE s.state = 'live' AND s.expires_at < now() - make_interval(secs => $1)
      AND pg_postmaster_start_time() < now() - make_interval(secs => $1)
      AND EXISTS (SELECT FROM fleet_state d WHERE d.life = known_life()
                  AND COALESCE(d.paused_until, '-infinity') < now() - make_interval(secs => $1))
    RETURNING s.id, s.host, s.slot
), logged AS (
    INSERT INTO audit_log (actor, action, subject_kind, subject_id, detail)
    SELECT 'system', 'session.lost', 'session', id, jsonb_build_object('host', host, 'slot', slot) FROM lost
)
SELECT id, host, slot FROM lost

-- name: return_rates
-- After a ttl and the longest exchange nothing that a lost session has leased of a rate limit can be in use any more.
SELECT return_rates(s.id) FROM worker_sessions s
WHERE s.state = 'lost' AND s.rates_returned_at IS NULL AND s.expires_at < now() - make_interval(secs => $1)

-- name: lost_credit
-- How many sessions are lost, and how much of accounts' money is out of the pot for that.
SELECT count(DISTINCT s.id) AS sessions, COALESCE(sum(l.granted - l.consumed - l.returned), 0)::bigint AS nanos
FROM worker_sessions s LEFT JOIN leases l ON l.session_id = s.id
    AND EXISTS (SELECT FROM limits c WHERE c.id = l.limit_id AND c.kind = 'credit')
WHERE s.state = 'lost'

-- name: find_sessions
-- What an operator means by an id: one session, or all of one journal.
SELECT id, state, host, slot, expires_at > now() AS trusted FROM worker_sessions
WHERE (id = $1 OR journal_id = $1) AND state IN ('live', 'lost') ORDER BY id FOR UPDATE

-- name: abandon
SELECT end_session($1, 'abandoned')

-- name: audit
INSERT INTO audit_log (actor, action, subject_kind, subject_id, detail) VALUES ($1, $2, $3, $4, $5)
