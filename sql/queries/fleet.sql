-- What an operator may do to the whole fleet at once.

-- name: read_fleet
SELECT lending, read_only, shadow, paused_until FROM fleet_state

-- name: change_fleet
UPDATE fleet_state SET lending = COALESCE($1::boolean, lending), read_only = COALESCE($2::boolean, read_only), shadow = COALESCE($3::boolean, shadow)
RETURNING lending, read_only, shadow, paused_until

-- name: is_drained
SELECT EXISTS (SELECT FROM drained_hosts WHERE host = $1)

-- name: drain_host
-- Again is harmless, and keeps the first instant.
INSERT INTO drained_hosts (host) VALUES ($1) ON CONFLICT DO NOTHING

-- name: undrain_host
DELETE FROM drained_hosts WHERE host = $1

-- name: knows_host
SELECT EXISTS (SELECT FROM worker_sessions WHERE host = $1 UNION ALL SELECT FROM drained_hosts WHERE host = $1)

-- name: list_hosts
-- Hosts with living sessions, and those that are drained; what is lent to them is money only.
SELECT host, max(drained_at) AS drained_at, count(session_id) AS workers, max(trusted_until) AS trusted_until,
    COALESCE(sum(leased), 0)::bigint AS leased_nanos
FROM (
    SELECT s.host, NULL::timestamptz AS drained_at, s.id AS session_id, s.expires_at AS trusted_until,
        (SELECT sum(l.granted - l.consumed - l.returned) FROM leases l JOIN limits c ON c.id = l.limit_id
         WHERE l.session_id = s.id AND c.measure = 'amount') AS leased
    FROM worker_sessions s WHERE s.state = 'live'
    UNION ALL
    SELECT d.host, d.drained_at, NULL, NULL, NULL FROM drained_hosts d
) hosts
GROUP BY host ORDER BY host
