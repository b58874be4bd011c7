-- Idempotency: who answers under a key, and what becomes of those whose place was taken.

-- name: claim
SELECT verdict, answered_by, answer, master_key_id FROM claim_idempotency_key($1, $2, $3, $4, $5, $6, $7, $8)

-- name: end_claim
SELECT end_idempotency_claim($1, $2, $3, $4, $5, $6, $7)

-- name: take_due
-- Replaced requests that are to be decided about now. Whoever takes them moves their next look on, ever farther while
-- what they wait for (a host that is gone, an exchange that takes its time) does not come.
WITH due AS (
    SELECT account_id, request_id, replaced_by FROM replaced_requests
    WHERE state = 'pending' AND next_look_at <= now() ORDER BY next_look_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE replaced_requests r
SET next_look_at = now() + LEAST(GREATEST((now() - r.replaced_at) / 4, interval '1 second'), interval '1 hour')
FROM due WHERE (r.account_id, r.request_id, r.replaced_by) = (due.account_id, due.request_id, due.replaced_by)
RETURNING r.account_id, r.request_id, r.replaced_by

-- name: decide
SELECT decide_replaced($1, $2, $3)

-- name: delete_expired
-- Keys that are older than a day, a slice at a time, so that nobody waits for it.
WITH old AS (
    SELECT account_id, key_digest FROM idempotent_requests WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM idempotent_requests i USING old WHERE (i.account_id, i.key_digest) = (old.account_id, old.key_digest)
    RETURNING i.account_id, i.answer_bytes
), freed AS (
    SELECT account_id, sum(answer_bytes)::bigint AS bytes FROM gone WHERE answer_bytes IS NOT NULL GROUP BY 1
), kept AS (
    UPDATE kept_answers k SET bytes = k.bytes - freed.bytes FROM freed WHERE k.account_id = freed.account_id
)
SELECT count(*) FROM gone
