-- What a database is asked now and then.

-- name: try_lock
SELECT pg_try_advisory_xact_lock($1)

-- name: make_partitions
SELECT make_usage_partitions(now(), $1)

-- name: lost_lease_nanos
SELECT COALESCE(sum(l.granted - l.consumed - l.returned), 0)::bigint
FROM leases l JOIN worker_sessions s ON s.id = l.session_id JOIN limits c ON c.id = l.limit_id
WHERE s.state IN ('live', 'lost') AND s.expires_at < now() - make_interval(secs => $1) AND c.measure = 'amount'
