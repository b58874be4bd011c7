-- Refusals: what limits have refused lately, as workers tell it and people read it.

-- name: note_refusals
-- A row for each limit: that of its latest window. Where there are no windows it begins anew after a day without refusals.
-- The first one is told to people, but of limits by the minute and the hour, which refuse again and again.
WITH asked AS MATERIALIZED (
    SELECT DISTINCT ON (limit_id) *
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::timestamptz[], $6::uuid[], $7::bigint[])
        AS told (account_id, limit_id, window_start, refused, last_at, key_id, amount)
    ORDER BY limit_id, window_start DESC
), noted AS (
    INSERT INTO limit_refusals AS r (limit_id, account_id, window_start, refused, last_at, last_key_id, last_amount)
    SELECT limit_id, account_id, window_start, refused, last_at, key_id, amount FROM asked
    ON CONFLICT (limit_id) DO UPDATE SET
        refused = excluded.refused + CASE WHEN r.window_start = excluded.window_start
            AND (r.window_start > 'epoch' OR r.last_at > excluded.last_at - interval '1 day') THEN r.refused ELSE 0 END,
        window_start = excluded.window_start, last_at = excluded.last_at, last_key_id = excluded.last_key_id,
        last_amount = excluded.last_amount
    WHERE r.window_start <= excluded.window_start
    RETURNING r.limit_id, r.refused
)
INSERT INTO notifications (account_id, kind, user_id, subject_id, detail)
SELECT a.account_id, CASE c.kind WHEN 'credit' THEN 'credit.refused' ELSE 'limit.refused' END,
    CASE c.scope WHEN 'user' THEN c.scope_id WHEN 'key' THEN (SELECT k.user_id FROM keys k WHERE k.id = c.scope_id) END,
    c.id, jsonb_build_object('name', c.name, 'scope', c.scope, 'measure', c.measure, 'window', c.window_kind, 'cap', c.cap,
        'amount', a.amount, 'key', (SELECT k.name FROM keys k WHERE k.id = a.key_id))
FROM asked a JOIN noted n USING (limit_id) JOIN limits c ON c.id = a.limit_id
WHERE n.refused = a.refused AND (c.kind = 'credit' OR c.window_kind NOT IN ('minute', 'hour', 'none'))

-- name: read_refusals
-- What the limits of an account have refused in the last day, the latest first.
SELECT r.limit_id, c.kind, c.name, c.measure, c.scope, r.window_start, r.refused, r.last_at, r.last_key_id,
    k.name AS last_key, r.last_amount
FROM limit_refusals r JOIN limits c ON c.id = r.limit_id LEFT JOIN keys k ON k.id = r.last_key_id
WHERE r.account_id = $1 AND r.last_at > now() - interval '1 day'
ORDER BY r.last_at DESC, r.limit_id LIMIT $2
