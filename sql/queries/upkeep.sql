-- What a database is asked now and then.

-- name: try_lock
SELECT pg_try_advisory_xact_lock($1)

-- name: make_partitions
SELECT make_usage_partitions(now(), $1)

-- name: delete_old_owners
-- What a provider has forgotten by itself, and tombstones that no journal can still contradict; a slice at a time, so
-- that nobody waits for it.
WITH aged AS (
    SELECT account_id, kind, id FROM owners
    WHERE kind IN ('response', 'chat_completion') AND created_at < now() - make_interval(days => $1)
    LIMIT $3 FOR UPDATE SKIP LOCKED
), aged_items AS (
    SELECT account_id, kind, id FROM owners
    WHERE kind = 'item' AND created_at < now() - make_interval(days => $2) LIMIT $3 FOR UPDATE SKIP LOCKED
), buried AS (
    SELECT account_id, kind, id FROM owners WHERE forgotten_at < now() - make_interval(days => $1)
    LIMIT $3 FOR UPDATE SKIP LOCKED
)
DELETE FROM owners o USING (SELECT * FROM aged UNION SELECT * FROM aged_items UNION SELECT * FROM buried) old
WHERE (o.account_id, o.kind, o.id) = (old.account_id, old.kind, old.id)

-- name: living_workers
-- How many workers of the fleet may have captured what PostgreSQL does not have yet.
SELECT count(*) FROM worker_sessions WHERE state = 'live' AND expires_at > now()
