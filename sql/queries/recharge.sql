-- Auto-recharge: which accounts have fallen below their marks and order credit by themselves.

-- name: due
-- Of these accounts ($1), or of all.
SELECT account_id FROM credit_marks
WHERE recharge_nanos IS NOT NULL AND low_since IS NOT NULL AND recharged_since IS DISTINCT FROM low_since
  AND ($1::uuid[] IS NULL OR account_id = ANY ($1))
ORDER BY account_id

-- name: take_up
-- No row: it is not low (any more), or this fall was dealt with.
UPDATE credit_marks SET recharged_since = low_since
WHERE account_id = $1 AND recharge_nanos IS NOT NULL AND low_since IS NOT NULL AND recharged_since IS DISTINCT FROM low_since
RETURNING recharge_nanos

-- name: is_pending
SELECT EXISTS (SELECT FROM purchases WHERE account_id = $1 AND automatic AND state = 'pending')

-- name: tell
-- Those who pay are told what waits for them.
INSERT INTO notifications (account_id, kind, for_payers, subject_id, detail)
SELECT account_id, 'purchase.ordered', true, id, jsonb_build_object('code', code, 'amount_nanos', amount_nanos)
FROM purchases WHERE id = $1
