-- Logged events: usage that did not pass here, each booked once under the id that its teller gave it.

-- name: claim_event
INSERT INTO logged_events (account_id, event_id, digest, request_id, occurred_at, claimed_until)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6)) ON CONFLICT DO NOTHING
RETURNING request_id, occurred_at

-- name: lock_event
SELECT digest, request_id, occurred_at, claimed_until > clock_timestamp() AS is_running
FROM logged_events WHERE account_id = $1 AND event_id = $2 FOR UPDATE

-- name: take_event
UPDATE logged_events SET claimed_until = clock_timestamp() + make_interval(secs => $3)
WHERE account_id = $1 AND event_id = $2

-- name: give_event_back
-- What was refused and never booked may be told anew. One that another call had before may be in a journal yet: it stays.
WITH known AS (
    UPDATE logged_events SET claimed_until = clock_timestamp() WHERE account_id = $1 AND event_id = $2 AND NOT $3
)
DELETE FROM logged_events WHERE account_id = $1 AND event_id = $2 AND $3

-- name: read_event
-- What the books say of it, be it that its record was refused or that its row was dropped since.
SELECT amount_nanos, true AS is_booked FROM usage_events WHERE (account_id, occurred_at, id) = ($1, $2, $3)
UNION ALL
SELECT amount_nanos, booked <> 'nothing' FROM settle_rejected WHERE account_id = $1 AND request_id = $3
UNION ALL
SELECT dropped_amount_nanos, true FROM logged_events
WHERE (account_id, event_id, request_id) = ($1, $4, $3) AND dropped_amount_nanos IS NOT NULL
LIMIT 1

-- name: is_over
-- Whether rows of then are refused, so that an event that has none can get none any more.
SELECT $1 < retained_from()

-- name: tidy_events
DELETE FROM logged_events WHERE ctid IN (
    SELECT ctid FROM logged_events WHERE created_at < now() - make_interval(days => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)
