-- One exchange, from its bound to its entries.

-- name: read_row
SELECT u.*, p.document AS price FROM usage_events u LEFT JOIN prices p ON p.id = u.price_id WHERE u.id = $1

-- name: read_entries
-- What the request was charged, and what of it was given back.
SELECT entry_no, kind, amount_nanos, balance_after_nanos, created_at FROM ledger_entries
WHERE account_id = $1 AND (request_id = $2 OR reverses = $2) ORDER BY entry_no

-- name: read_limits
-- The limits that a row names as drawn from; one that names none drew from its account's credit.
SELECT id, kind, name, scope, measure FROM limits
WHERE account_id = $1 AND (id = ANY ($2::uuid[]) OR ($2 IS NULL AND kind = 'credit')) ORDER BY id

-- name: read_sessions
SELECT id, state FROM worker_sessions WHERE id = ANY ($1::uuid[])

-- name: read_rejected
SELECT account_id, amount_nanos, overrun_nanos, journal_id, journal_position, error, rejected_at, seen_at, booked
FROM settle_rejected WHERE request_id = $1

-- name: read_durable
SELECT account_id, state, provider, resource_kind, resource_id, model, hold_nanos, placed_at, next_poll_at, ended_at
FROM durable_holds WHERE request_id = $1
