-- Retention: months of usage rows that are older than they are to be kept.

-- name: try_lock
SELECT pg_try_advisory_xact_lock($1)

-- name: wait_shortly
-- Who reads is waited for a moment only: whoever settles waits behind us meanwhile.
SELECT set_config('lock_timeout', $1, true)

-- name: advance
SELECT advance_retention(now() - make_interval(days => $1))

-- name: months_over
-- Those that are there: what a person has detached to keep it is his.
SELECT partition, is_summed FROM usage_months_over m
WHERE EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = 'usage_events'::regclass AND c.relname = m.partition)
ORDER BY month

-- name: sum_month
SELECT sum_month($1)

-- name: drop_month
SELECT drop_month($1)

-- name: drop_rows
-- Old rows that no month has, a slice at a time.
WITH gone AS (
    DELETE FROM usage_events_default WHERE ctid IN (
        SELECT ctid FROM usage_events_default WHERE occurred_at < retained_from() LIMIT $1)
    RETURNING *
), sums AS (
    INSERT INTO usage_dropped AS t (account_id, requests, failures, input_tokens, cached_tokens, output_tokens, cost_nanos,
        amount_nanos)
    SELECT account_id, count(*), count(*) FILTER (WHERE outcome <> 'completed'),
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)), sum(tokens_cached(cache_read_tokens, other_usage)),
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)), sum(cost_nanos), sum(amount_nanos)
    FROM gone GROUP BY account_id ORDER BY account_id
    ON CONFLICT (account_id) DO UPDATE SET
        requests = t.requests + excluded.requests, failures = t.failures + excluded.failures,
        input_tokens = t.input_tokens + excluded.input_tokens, cached_tokens = t.cached_tokens + excluded.cached_tokens,
        output_tokens = t.output_tokens + excluded.output_tokens, cost_nanos = t.cost_nanos + excluded.cost_nanos,
        amount_nanos = t.amount_nanos + excluded.amount_nanos
)
SELECT count(*) FROM gone

-- name: retained_from
SELECT NULLIF(retained_from(), '-infinity')
