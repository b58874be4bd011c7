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
-- Windows by the minute and the hour in which nobody holds anything any more, budgets among them, with their leases and
-- what durable holds had drawn from them, a slice at a time. All invariants are about windows that are there, and credit
-- has only one, which stays. What a journal still tells of one makes it anew, with nothing in it but that.
WITH old AS (
    SELECT w.account_id, w.limit_id, w.window_start
    FROM limit_windows w JOIN limits c ON c.id = w.limit_id
    WHERE w.window_start > 'epoch' AND w.window_start < now() - make_interval(secs => $1)
      AND (c.window_kind = 'minute' OR c.window_kind = 'hour' AND w.window_start < now() - make_interval(secs => $2))
      AND NOT EXISTS (SELECT FROM leases l
                      WHERE (l.account_id, l.limit_id, l.window_start) = (w.account_id, w.limit_id, w.window_start)
                        AND l.granted > l.consumed + l.returned)
      AND NOT EXISTS (SELECT FROM durable_draws d JOIN durable_holds h USING (account_id, request_id)
                      WHERE h.state = 'open' AND (d.account_id, d.limit_id, d.window_start)
                        = (w.account_id, w.limit_id, w.window_start))
    ORDER BY 1, 2, 3 LIMIT $3 FOR UPDATE OF w SKIP LOCKED
), leases_gone AS (
    DELETE FROM leases l USING old
    WHERE (l.account_id, l.limit_id, l.window_start) = (old.account_id, old.limit_id, old.window_start)
), draws_gone AS (
    DELETE FROM durable_draws d USING old
    WHERE (d.account_id, d.limit_id, d.window_start) = (old.account_id, old.limit_id, old.window_start)
)
DELETE FROM limit_windows w USING old
WHERE (w.account_id, w.limit_id, w.window_start) = (old.account_id, old.limit_id, old.window_start)

-- name: fold_leases
-- Leases of sessions that ended a while ago become a number of their window, a slice at a time. An ended session never
-- changes again, and what its leases were lent is what they have consumed: nothing that is drawn, used or left changes.
-- One that still holds something (the invariants name it) is left as it is. Windows are locked before leases, in the order
-- of all locks; leases are found again by their place, which no plan can make slow.
WITH ended AS (
    SELECT l.account_id, l.limit_id, l.window_start, l.ctid AS place
    FROM worker_sessions s JOIN leases l ON l.session_id = s.id
    WHERE s.ended_at < now() - make_interval(secs => $1) AND l.granted = l.consumed + l.returned
    LIMIT $2
), locked AS MATERIALIZED (
    SELECT account_id, limit_id, window_start FROM limit_windows w
    WHERE (account_id, limit_id, window_start) IN (SELECT account_id, limit_id, window_start FROM ended)
    ORDER BY 1, 2, 3 FOR UPDATE
), gone AS (
    DELETE FROM leases l
    WHERE ctid = ANY (ARRAY(SELECT place FROM ended JOIN locked USING (account_id, limit_id, window_start)))
    RETURNING l.account_id, l.limit_id, l.window_start, l.consumed
), folded AS (
    UPDATE limit_windows w SET folded = w.folded + g.consumed
    FROM (SELECT account_id, limit_id, window_start, sum(consumed)::bigint AS consumed FROM gone GROUP BY 1, 2, 3) g
    WHERE (w.account_id, w.limit_id, w.window_start) = (g.account_id, g.limit_id, g.window_start) AND g.consumed > 0
)
SELECT count(*) FROM gone

-- name: living_workers
-- How many workers of the fleet may have captured what PostgreSQL does not have yet.
SELECT count(*) FROM worker_sessions WHERE state = 'live' AND expires_at > now()
