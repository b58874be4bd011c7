-- Records that PostgreSQL refused: kept whole until a person has seen to them, and after that too.

-- name: list
-- The latest first; unless all are wanted, those that nobody has seen to.
SELECT request_id, account_id, amount_nanos, booked, rejected_at, seen_at, left(error, 200) AS error
FROM settle_rejected WHERE $1 OR seen_at IS NULL ORDER BY rejected_at DESC, request_id LIMIT $2

-- name: read
SELECT request_id, account_id, amount_nanos, overrun_nanos, booked, rejected_at, seen_at, error, journal_id,
    journal_position, record
FROM settle_rejected WHERE request_id = $1

-- name: see
-- Once: who sees it again changes nothing.
UPDATE settle_rejected SET seen_at = now() WHERE request_id = $1 AND seen_at IS NULL RETURNING request_id
