-- Keys: secrets are known by their SHA-256 only.

-- name: create_key
INSERT INTO keys (id, account_id, user_id, name, description, prefix, digest, models, operations, networks,
    highest_request_nanos, expires_at, team_id, origin_id, reads_usage)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
RETURNING id, account_id, user_id, team_id, origin_id, name, description, prefix, models, operations, networks,
    highest_request_nanos, reads_usage, expires_at, revoked_at, created_at

-- name: count_live_keys
-- Of an account, and of one user in it; neither is counted further than is asked for.
SELECT (SELECT count(*) FROM (SELECT FROM keys WHERE account_id = $1 AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > now()) AND NOT is_chat LIMIT $3) some_of_them) AS of_account,
    (SELECT count(*) FROM (SELECT FROM keys WHERE account_id = $1 AND user_id = $2 AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > now()) AND NOT is_chat LIMIT $4) some_of_them) AS of_user

-- name: list_keys
SELECT id, account_id, user_id, team_id, origin_id, name, description, prefix, models, operations, networks,
    highest_request_nanos, reads_usage, expires_at, revoked_at, created_at
FROM keys WHERE ($1::uuid IS NULL OR account_id = $1) AND ($2::uuid IS NULL OR id > $2)
  AND ($4::uuid IS NULL OR user_id = $4) AND NOT is_chat
ORDER BY id LIMIT $3

-- name: read_key
SELECT id, account_id, user_id, team_id, origin_id, name, description, prefix, models, operations, networks,
    highest_request_nanos, reads_usage, expires_at, revoked_at, created_at
FROM keys WHERE id = $1 AND account_id = $2

-- name: whose_key
SELECT account_id, user_id FROM keys WHERE id = $1

-- name: lock_key
-- Who changes a key is alone with it. A chat's key is nobody's to change: the product makes it, and its next one.
SELECT id, account_id, user_id, team_id, origin_id, name, description, prefix, models, operations, networks,
    highest_request_nanos, reads_usage, expires_at, revoked_at, created_at
FROM keys WHERE id = $1 AND NOT is_chat FOR UPDATE

-- name: change_key
UPDATE keys SET name = $2, description = $3, models = $4, operations = $5, networks = $6, highest_request_nanos = $7,
    expires_at = $8, team_id = $9, reads_usage = $10
WHERE id = $1
RETURNING id, account_id, user_id, team_id, origin_id, name, description, prefix, models, operations, networks,
    highest_request_nanos, reads_usage, expires_at, revoked_at, created_at

-- name: revoke_key
-- Revoking twice keeps the first instant.
UPDATE keys SET revoked_at = COALESCE(revoked_at, now()) WHERE id = $1
RETURNING id, account_id, user_id, team_id, origin_id, name, description, prefix, models, operations, networks,
    highest_request_nanos, reads_usage, expires_at, revoked_at, created_at

-- name: read_end
-- Whether a key has come to its end, and by which key it was followed.
SELECT COALESCE(k.expires_at <= now(), false) AS has_ended,
    (SELECT id FROM keys n WHERE n.origin_id = k.origin_id AND (n.created_at, n.id) > (k.created_at, k.id)
        ORDER BY n.created_at, n.id LIMIT 1) AS successor_id
FROM keys k WHERE id = $1

-- name: expire_key
-- The old secret of a rotation lives on for its grace, never longer than it would have.
UPDATE keys SET expires_at = LEAST(expires_at, now() + make_interval(secs => $2)) WHERE id = $1

-- name: find_key
-- What a worker must know of a key it has not seen yet; revoked and expired keys are nobody's, nor are those of people who
-- are suspended or do not belong to its organization. `role` is its user's there, NULL for a service.
SELECT k.id, k.account_id, k.user_id, k.team_id, k.origin_id, a.organization_id, c.id AS credit_limit_id, k.models,
    k.operations, k.networks, k.highest_request_nanos, k.expires_at, k.reads_usage, m.role
FROM keys k JOIN accounts a ON a.id = k.account_id JOIN limits c ON c.account_id = a.id AND c.kind = 'credit'
    JOIN users u ON u.id = k.user_id AND u.suspended_at IS NULL
    LEFT JOIN memberships m ON m.organization_id = a.organization_id AND m.user_id = u.id
WHERE k.digest = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
  AND (u.is_service OR m.role IS NOT NULL)

-- name: hold_membership
-- Whoever ends a membership ends the keys that go with it: he waits for a key in the making, or it for him.
SELECT 1 FROM memberships m JOIN accounts a USING (organization_id) WHERE a.id = $2 AND m.user_id = $1
FOR KEY SHARE OF m

-- name: find_chat_key
SELECT id, digest, expires_at IS NULL OR expires_at > now() AS is_live FROM keys
WHERE account_id = $1 AND user_id = $2 AND is_chat AND revoked_at IS NULL

-- name: create_chat_key
INSERT INTO keys (id, account_id, user_id, name, prefix, digest, origin_id, is_chat)
VALUES ($1, $2, $3, 'chat', $4, $5, $1, true)

-- name: latest_key
-- One that was rotated lives for its grace only, and is nobody's latest.
SELECT k.id FROM keys k JOIN users u ON u.id = k.user_id
WHERE k.account_id = $1 AND ($2::uuid = k.user_id OR ($2 IS NULL AND u.is_service)) AND NOT k.is_chat
  AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
  AND NOT EXISTS (SELECT FROM keys n WHERE n.origin_id = k.origin_id AND (n.created_at, n.id) > (k.created_at, k.id))
ORDER BY k.created_at DESC, k.id DESC LIMIT 1
