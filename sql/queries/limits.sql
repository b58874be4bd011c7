-- Limits beyond credit: made, changed, retired, and how far each has been used.

-- name: account_of_scope
-- Whose credit account a scope belongs to: nobody can limit what is not of one organization. A key stands for its whole
-- chain of rotations, which the first of it names. A user may belong to several organizations: `$3` says which account is
-- meant, NULL the one where he was made.
SELECT a.id AS account_id, CASE $1 WHEN 'key' THEN (SELECT k.origin_id FROM keys k WHERE k.id = $2) ELSE $2 END AS scope_id
FROM accounts a
WHERE ($3::uuid IS NULL OR a.id = $3) AND (($1 = 'account' AND a.id = $2)
   OR ($1 = 'organization' AND a.organization_id = $2)
   OR ($1 = 'team' AND a.organization_id = (SELECT t.organization_id FROM teams t WHERE t.id = $2 AND t.removed_at IS NULL))
   OR ($1 = 'user' AND CASE WHEN $3 IS NULL THEN a.organization_id = (SELECT u.organization_id FROM users u WHERE u.id = $2)
        ELSE EXISTS (SELECT FROM memberships m WHERE m.organization_id = a.organization_id AND m.user_id = $2) END)
   OR ($1 = 'key' AND a.id = (SELECT k.account_id FROM keys k WHERE k.id = $2)))

-- name: lock_account
-- Settling takes this lock first, so what rollups say while it is held is all that was booked so far.
SELECT clock_timestamp() AS now FROM accounts WHERE id = $1 FOR UPDATE

-- name: count_limits
-- As many as workers keep: see `limits_of_accounts`.
SELECT count(*) FROM limits l WHERE l.account_id = $1 AND l.kind IN ('budget', 'rate') AND l.retired_at IS NULL
    AND (l.scope <> 'key' OR EXISTS (SELECT FROM keys k WHERE k.origin_id = l.scope_id AND k.revoked_at IS NULL))

-- name: create_limit
INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, operation, model_pattern, window_kind, time_zone, cap,
    enforcement, name, grace, marks, is_own)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
RETURNING id, account_id, scope, scope_id, name, measure, operation, model_pattern, window_kind, time_zone, cap, grace,
    enforcement, marks, is_own, created_at, retired_at

-- name: used_in_window
-- What was booked in a window so far, by operation and model: rows of its first, broken hour and rollups of whole hours.
-- Called with the account locked. Tokens are all that went in or out.
SELECT operation, model, sum(amount_nanos)::bigint AS amount, sum(requests)::bigint AS requests, sum(tokens)::bigint AS tokens
FROM (
    SELECT e.user_id, e.key_id, e.model, e.operation, e.amount_nanos, 1 AS requests,
        tokens_in(e.input_tokens, e.cache_write_tokens, e.other_usage) + tokens_cached(e.cache_read_tokens, e.other_usage)
            + tokens_out(e.output_tokens, e.reasoning_tokens, e.other_usage) AS tokens
    FROM usage_events e WHERE e.account_id = $1 AND e.occurred_at >= $4 AND e.occurred_at < LEAST($5::timestamptz, $6)
    UNION ALL
    SELECT r.user_id, r.key_id, r.model, r.operation, r.amount_nanos, r.requests,
        r.input_tokens + r.cached_tokens + r.output_tokens
    FROM usage_by_hour r WHERE r.account_id = $1 AND r.hour >= $5 AND r.hour < $6
) used
WHERE CASE $2
    WHEN 'key' THEN key_id IN (SELECT k.id FROM keys k WHERE k.id = $3 OR k.origin_id = $3)
    WHEN 'user' THEN user_id = $3
    WHEN 'team' THEN key_id IN (SELECT k.id FROM keys k WHERE k.team_id = $3)
    ELSE true END
GROUP BY operation, model

-- name: used_ever
-- As `used_in_window`, since the beginning, by the rollups of days.
SELECT operation, model, sum(amount_nanos)::bigint AS amount, sum(requests)::bigint AS requests,
    sum(input_tokens + cached_tokens + output_tokens)::bigint AS tokens
FROM usage_by_day
WHERE account_id = $1 AND CASE $2
    WHEN 'key' THEN key_id IN (SELECT k.id FROM keys k WHERE k.id = $3 OR k.origin_id = $3)
    WHEN 'user' THEN user_id = $3
    WHEN 'team' THEN key_id IN (SELECT k.id FROM keys k WHERE k.team_id = $3)
    ELSE true END
GROUP BY operation, model

-- name: seed_window
INSERT INTO limit_windows (account_id, limit_id, window_start, cap, drawn, counted) VALUES ($1, $2, $3, $4, $5, $5)

-- name: read_limit
SELECT id, account_id, scope, scope_id, name, measure, operation, model_pattern, window_kind, time_zone, cap, grace,
    enforcement, marks, is_own, created_at, retired_at
FROM limits WHERE id = $1 AND kind IN ('budget', 'rate')

-- name: list_limits
SELECT id, account_id, scope, scope_id, name, measure, operation, model_pattern, window_kind, time_zone, cap, grace,
    enforcement, marks, is_own, created_at, retired_at
FROM limits
WHERE kind IN ('budget', 'rate') AND ($1::uuid IS NULL OR account_id = $1) AND ($2::uuid IS NULL OR scope_id = $2)
  AND (retired_at IS NULL OR $3) AND ($4::uuid IS NULL OR id > $4)
ORDER BY id LIMIT $5

-- name: change_limit
UPDATE limits SET cap = $2, grace = $3, enforcement = $4, name = $5, marks = $6 WHERE id = $1
RETURNING id, account_id, scope, scope_id, name, measure, operation, model_pattern, window_kind, time_zone, cap, grace,
    enforcement, marks, is_own, created_at, retired_at

-- name: move_caps
-- Windows from the current one on follow a changed cap; a lower one only stops lending. In one order, as everywhere.
WITH locked AS (
    SELECT account_id, limit_id, window_start FROM limit_windows
    WHERE account_id = $1 AND limit_id = $2 AND window_start >= $3
    ORDER BY window_start FOR UPDATE
)
UPDATE limit_windows w SET cap = $4 FROM locked
WHERE (w.account_id, w.limit_id, w.window_start) = (locked.account_id, locked.limit_id, locked.window_start)

-- name: retire_limit
-- Retiring twice keeps the first instant.
UPDATE limits SET retired_at = COALESCE(retired_at, now()) WHERE id = $1
RETURNING id, account_id, scope, scope_id, name, measure, operation, model_pattern, window_kind, time_zone, cap, grace,
    enforcement, marks, is_own, created_at, retired_at

-- name: read_window
-- Used is what is booked; held is what workers last reported and what durable holds hold, which their leases' `consumed`
-- has in it already.
SELECT (w.folded + w.overrun + w.late + w.counted - w.unspent
        + COALESCE((SELECT sum(l.consumed) FROM leases l WHERE (l.account_id, l.limit_id, l.window_start)
            = (w.account_id, w.limit_id, w.window_start)), 0) - durable.held)::bigint AS used,
    (COALESCE((SELECT sum(l.held) FROM leases l WHERE (l.account_id, l.limit_id, l.window_start)
            = (w.account_id, w.limit_id, w.window_start)), 0) + durable.held)::bigint AS held
FROM limit_windows w, LATERAL (SELECT held_durably(w.account_id, w.limit_id, w.window_start) AS held) durable
WHERE w.account_id = $1 AND w.limit_id = $2 AND w.window_start = $3

-- name: read_crossings
SELECT mark, used, cap, crossed_at FROM limit_crossings
WHERE account_id = $1 AND limit_id = $2 AND window_start = $3 ORDER BY mark

-- name: now
SELECT clock_timestamp() AS now

-- name: limits_of_accounts
-- What workers keep of accounts: one row for each limit, and one without a limit for each account. Limits of keys that
-- were revoked, with their whole chain of rotations, concern nobody any more.
SELECT a.id AS account_id, a.frozen_at IS NOT NULL AS frozen, l.id, l.scope, l.scope_id, l.measure, l.window_kind, l.cap,
    l.time_zone, l.enforcement, l.grace, l.operation, l.model_pattern, l.name
FROM accounts a LEFT JOIN limits l ON l.account_id = a.id AND l.kind <> 'credit' AND l.retired_at IS NULL
    AND (l.scope <> 'key' OR EXISTS (SELECT FROM keys k WHERE k.origin_id = l.scope_id AND k.revoked_at IS NULL))
WHERE a.id = ANY($1::uuid[])

-- name: expose_account
-- What adaptive holds of a new account may leave unheld. Its window is made by whoever borrows first.
INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, window_kind, cap)
VALUES ($1, $2, 'exposure', 'account', $2, 'exposure', 'none', $3)

-- name: retire_exposures
UPDATE limits SET retired_at = now() WHERE kind = 'exposure' AND retired_at IS NULL

-- name: expose_accounts
-- Every account gets the exposure that is configured: those without one, and those that had another. Two hosts that start
-- at once make each once.
WITH other AS (
    UPDATE limits SET cap = $1, retired_at = NULL WHERE kind = 'exposure' AND (cap <> $1 OR retired_at IS NOT NULL)
    RETURNING account_id, id
), made AS (
    INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, window_kind, cap)
    SELECT gen_random_uuid(), a.id, 'exposure', 'account', a.id, 'exposure', 'none', $1 FROM accounts a
    WHERE NOT EXISTS (SELECT FROM limits l WHERE l.account_id = a.id AND l.kind = 'exposure')
    ON CONFLICT DO NOTHING
)
UPDATE limit_windows w SET cap = $1 FROM other WHERE (w.account_id, w.limit_id) = (other.account_id, other.id)
