-- Crossings: which marks of a limit's window have been passed, each once.

-- name: mark_crossings
-- Called with windows in which something was settled. Used is what is booked; see `read_window` of the limits. Of the marks
-- that were passed at a time people are told the highest, of limits by the minute and hour none: those pass them again and
-- again. A limit of one user, or of one's key, is told to him as well.
WITH used AS (
    SELECT w.account_id, w.limit_id, w.window_start, c.cap, c.marks,
        (w.folded + w.overrun + w.late + w.counted - w.unspent - held_durably(w.account_id, w.limit_id, w.window_start)
            + COALESCE((SELECT sum(l.consumed) FROM leases l WHERE (l.account_id, l.limit_id, l.window_start)
                = (w.account_id, w.limit_id, w.window_start)), 0))::bigint AS used
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS asked (account_id, limit_id, window_start)
    JOIN limit_windows w USING (account_id, limit_id, window_start) JOIN limits c ON c.id = w.limit_id
    WHERE c.kind IN ('budget', 'rate') AND c.cap > 0 AND c.retired_at IS NULL
), crossed AS (
    INSERT INTO limit_crossings (account_id, limit_id, window_start, mark, used, cap)
    SELECT account_id, limit_id, window_start, mark, used, cap FROM used, unnest(marks) AS mark
    WHERE used::numeric * 100 >= cap::numeric * mark
    ON CONFLICT DO NOTHING
    RETURNING account_id, limit_id, window_start, mark, used, cap
), told AS (
    INSERT INTO notifications (account_id, kind, user_id, subject_id, detail)
    SELECT DISTINCT ON (x.account_id, x.limit_id, x.window_start) x.account_id, 'limit.passed',
        CASE c.scope WHEN 'user' THEN c.scope_id WHEN 'key' THEN (SELECT k.user_id FROM keys k WHERE k.id = c.scope_id) END,
        c.id, jsonb_build_object('name', c.name, 'scope', c.scope, 'measure', c.measure, 'window', c.window_kind,
            'window_start', x.window_start, 'enforcement', c.enforcement, 'grace', c.grace, 'mark', x.mark, 'used', x.used,
            'cap', x.cap)
    FROM crossed x JOIN limits c ON c.id = x.limit_id
    WHERE c.window_kind NOT IN ('minute', 'hour', 'none')
    ORDER BY x.account_id, x.limit_id, x.window_start, x.mark DESC
)
SELECT account_id, limit_id, window_start, mark, used, cap FROM crossed ORDER BY account_id, limit_id, window_start, mark

-- name: latest_windows
-- The last two windows of each living limit with a cap, a page at a time: what is looked through in case the worker that
-- settled something last was killed before it looked itself.
SELECT c.account_id, c.id AS limit_id, w.window_start
FROM (
    SELECT account_id, id FROM limits WHERE kind IN ('budget', 'rate') AND cap > 0 AND retired_at IS NULL AND id > $1
    ORDER BY id LIMIT $2) c
LEFT JOIN LATERAL (
    SELECT window_start FROM limit_windows w WHERE w.account_id = c.account_id AND w.limit_id = c.id
    ORDER BY window_start DESC LIMIT 2) w ON true
ORDER BY c.id

-- name: delete_old_crossings
-- Of windows by the minute and the hour, which pass their marks again and again; a slice at a time. Others are kept.
WITH old AS (
    SELECT x.account_id, x.limit_id, x.window_start, x.mark
    FROM limits c JOIN limit_crossings x ON x.account_id = c.account_id AND x.limit_id = c.id
    WHERE c.window_kind IN ('minute', 'hour') AND x.window_start < now() - make_interval(days => $1)
    LIMIT $2 FOR UPDATE OF x SKIP LOCKED
)
DELETE FROM limit_crossings x USING old
WHERE (x.account_id, x.limit_id, x.window_start, x.mark) = (old.account_id, old.limit_id, old.window_start, old.mark)
