-- One exchange, from its bound to its entries.

-- name: read_row
SELECT u.*, p.document AS price FROM usage_events u LEFT JOIN prices p ON p.id = u.price_id WHERE u.id = $1

-- name: read_entries
SELECT entry_no, kind, amount_nanos, balance_after_nanos, created_at FROM ledger_entries
WHERE account_id = $1 AND request_id = $2 ORDER BY entry_no

-- name: read_draws
SELECT l.limit_id, c.kind, c.scope, c.measure, l.window_start, l.session_id, s.state AS session_state
FROM leases l JOIN limits c ON c.id = l.limit_id JOIN worker_sessions s ON s.id = l.session_id
WHERE l.account_id = $1 AND l.session_id = $2

-- name: read_rejected
SELECT account_id, amount_nanos, overrun_nanos, journal_id, journal_position, error, rejected_at
FROM settle_rejected WHERE request_id = $1
