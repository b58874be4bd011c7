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

-- name: delete_old_windows
-- Windows by the minute and the hour in which nobody holds anything any more, with their leases, a slice at a time. Money
-- is never among them. What a journal still tells of one makes it anew.
WITH old AS (
    SELECT w.account_id, w.limit_id, w.window_start
    FROM limit_windows w JOIN limits c ON c.id = w.limit_id AND c.measure <> 'amount'
    WHERE w.window_start > 'epoch' AND w.window_start < now() - make_interval(secs => $1)
      AND (c.window_kind = 'minute' OR c.window_kind = 'hour' AND w.window_start < now() - make_interval(secs => $2))
      AND NOT EXISTS (SELECT FROM leases l
                      WHERE (l.account_id, l.limit_id, l.window_start) = (w.account_id, w.limit_id, w.window_start)
                        AND l.granted > l.consumed + l.returned)
    ORDER BY 1, 2, 3 LIMIT $3 FOR UPDATE OF w SKIP LOCKED
), leases_gone AS (
    DELETE FROM leases l USING old
    WHERE (l.account_id, l.limit_id, l.window_start) = (old.account_id, old.limit_id, old.window_start)
)
DELETE FROM limit_windows w USING old
WHERE (w.account_id, w.limit_id, w.window_start) = (old.account_id, old.limit_id, old.window_start)

-- name: living_workers
-- How many workers of the fleet may have captured what PostgreSQL does not have yet.
SELECT count(*) FROM worker_sessions WHERE state = 'live' AND expires_at > now()
