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
    INSERT INTO usage_dropped
    SELECT month_of(occurred_at), account_id, count(*), count(*) FILTER (WHERE outcome <> 'completed'),
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)), sum(tokens_cached(cache_read_tokens, other_usage)),
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)), sum(cost_nanos), sum(amount_nanos),
        COALESCE(sum(cardinality(tools)), 0), sum(tags_in(tags)), sum(amount_nanos * tags_in(tags)),
        count(conversation), COALESCE(sum(amount_nanos) FILTER (WHERE conversation IS NOT NULL), 0)
    FROM gone GROUP BY 1, 2
), events AS (
    UPDATE logged_events e SET dropped_amount_nanos = g.amount_nanos FROM gone g
    WHERE (g.account_id, g.occurred_at, g.id) = (e.account_id, e.occurred_at, e.request_id)
)
SELECT count(*) FROM gone

-- name: kept_by
-- What keeps rows that are older than they are to be kept.
SELECT reason, things, since
FROM usage_kept_by(date_trunc('month', now() - make_interval(days => $1), 'UTC')) ORDER BY since

-- name: retained_from
SELECT NULLIF(retained_from(), '-infinity')
