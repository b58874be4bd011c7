-- Purchases: ordered, cancelled, confirmed, declined. Whoever ends one has its account locked.

-- name: order
-- No row: somebody has this code already.
INSERT INTO purchases (id, account_id, method, code, amount_nanos, reference, user_id, idempotency_key, idempotency_digest,
    automatic)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (code) DO NOTHING RETURNING id

-- name: ordered
SELECT id, idempotency_digest FROM purchases WHERE account_id = $1 AND idempotency_key = $2

-- name: count_pending
SELECT count(*) FROM purchases WHERE account_id = $1 AND state = 'pending'

-- name: count_all_pending
-- As many as anybody wants to see a number of.
SELECT count(*) FROM (SELECT FROM purchases WHERE state = 'pending' LIMIT $1) some_of_them

-- name: read
SELECT p.id, p.account_id, o.id AS organization_id, o.name AS organization, p.method, p.code, p.amount_nanos, p.reference,
    p.state, u.name AS ordered_by, p.automatic, p.created_at, p.ended_at, p.reason, p.booked_nanos, p.entry_no
FROM purchases p JOIN accounts a ON a.id = p.account_id JOIN organizations o ON o.id = a.organization_id
    LEFT JOIN users u ON u.id = p.user_id
WHERE p.id = $1

-- name: list
-- The latest first. A code is found however it was typed.
SELECT p.id, p.account_id, o.id AS organization_id, o.name AS organization, p.method, p.code, p.amount_nanos, p.reference,
    p.state, u.name AS ordered_by, p.automatic, p.created_at, p.ended_at, p.reason, p.booked_nanos, p.entry_no
FROM purchases p JOIN accounts a ON a.id = p.account_id JOIN organizations o ON o.id = a.organization_id
    LEFT JOIN users u ON u.id = p.user_id
WHERE ($1::uuid IS NULL OR p.account_id = $1) AND ($2::text IS NULL OR p.state = $2) AND ($3::text IS NULL OR p.code = $3)
  AND ($4::uuid IS NULL OR p.id < $4)
ORDER BY p.id DESC LIMIT $5

-- name: end
-- Once, and while it is pending.
UPDATE purchases SET state = $2, ended_at = now(), reason = $3, booked_nanos = $4, entry_no = $5
WHERE id = $1 AND state = 'pending'

-- name: tell
-- Those who pay are told how it ended.
INSERT INTO notifications (account_id, kind, for_payers, subject_id, detail)
SELECT account_id, 'purchase.' || state, true, id, jsonb_build_object('code', code, 'amount_nanos', amount_nanos,
    'booked_nanos', booked_nanos, 'reason', reason)
FROM purchases WHERE id = $1
