-- Usage in figures, from rollups only: of an account, of one user or one key of it.

-- name: totals
-- All that is asked of a span of days, counted in one walk: each row is one group, `grouped` says by what (the bits of
-- day, model, provider, operation, key, user; a set bit is not grouped by).
SELECT GROUPING(day, model, provider, operation, key_id, user_id) AS grouped, day, model, provider, operation, key_id, user_id,
    sum(requests)::bigint AS requests, sum(failures)::bigint AS failures, sum(input_tokens)::bigint AS input_tokens,
    sum(cached_tokens)::bigint AS cached_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(amount_nanos)::bigint AS amount_nanos
FROM usage_by_day
WHERE account_id = $1 AND day BETWEEN $2 AND $3 AND ($4::uuid IS NULL OR user_id = $4) AND ($5::uuid IS NULL OR key_id = $5)
GROUP BY GROUPING SETS ((), (day), (model), (provider), (operation), (key_id), (user_id), (day, model))
ORDER BY grouped, day, amount_nanos DESC LIMIT $6

-- name: totals_of_many_models
-- The same, of the dearest models only by their names: clients could name any number of them.
WITH used AS (
    SELECT * FROM usage_by_day
    WHERE account_id = $1 AND day BETWEEN $2 AND $3 AND ($4::uuid IS NULL OR user_id = $4)
      AND ($5::uuid IS NULL OR key_id = $5)
), dearest AS (
    SELECT model FROM used GROUP BY model ORDER BY sum(amount_nanos) DESC, sum(requests) DESC, model LIMIT $6
), named AS (
    SELECT u.day, CASE WHEN d.model IS NULL THEN '(other)' ELSE d.model END AS model, u.provider, u.operation, u.key_id,
        u.user_id, u.requests, u.failures, u.input_tokens, u.cached_tokens, u.output_tokens, u.amount_nanos
    FROM used u LEFT JOIN dearest d USING (model)
)
SELECT GROUPING(day, model, provider, operation, key_id, user_id) AS grouped, day, model, provider, operation, key_id, user_id,
    sum(requests)::bigint AS requests, sum(failures)::bigint AS failures, sum(input_tokens)::bigint AS input_tokens,
    sum(cached_tokens)::bigint AS cached_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(amount_nanos)::bigint AS amount_nanos
FROM named
GROUP BY GROUPING SETS ((), (day), (model), (provider), (operation), (key_id), (user_id), (day, model))
ORDER BY grouped, day, amount_nanos DESC

-- name: names
SELECT id, name FROM keys WHERE id = ANY ($1::uuid[]) UNION ALL SELECT id, name FROM users WHERE id = ANY ($1::uuid[])

-- name: teams_of_keys
-- A key counts for the team that it is in today, or was in when that was removed.
SELECT k.id AS key_id, t.id AS team_id, t.name || CASE WHEN t.removed_at IS NULL THEN '' ELSE ' (removed)' END AS name
FROM keys k JOIN teams t ON t.id = k.team_id WHERE k.id = ANY ($1::uuid[])

-- name: peak_hours
SELECT extract(isodow FROM hour AT TIME ZONE 'UTC')::int AS weekday, extract(hour FROM hour AT TIME ZONE 'UTC')::int AS hour,
    sum(requests)::bigint AS requests, sum(amount_nanos)::bigint AS amount_nanos
FROM (
    SELECT hour, sum(requests) AS requests, sum(amount_nanos) AS amount_nanos FROM usage_by_hour
    WHERE account_id = $1 AND hour >= $2::date::timestamp AT TIME ZONE 'UTC'
      AND hour < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
      AND ($4::uuid IS NULL OR user_id = $4) AND ($5::uuid IS NULL OR key_id = $5)
    GROUP BY hour) by_hour
GROUP BY 1, 2 ORDER BY 1, 2

-- name: latencies
-- How many requests took how long; bucket b holds [2^(b-1), 2^b) ms.
SELECT bucket, sum(requests)::bigint AS requests FROM latency_by_hour
WHERE account_id = $1 AND hour >= $2::date::timestamp AT TIME ZONE 'UTC'
  AND hour < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
GROUP BY 1 ORDER BY 1

-- name: tools
-- The most used by their names, all others together.
SELECT CASE WHEN place <= $4 THEN tool ELSE '(other)' END AS tool, sum(requests)::bigint AS requests
FROM (
    SELECT tool, sum(requests) AS requests, row_number() OVER (ORDER BY sum(requests) DESC, tool) AS place FROM tools_by_day
    WHERE account_id = $1 AND day BETWEEN $2 AND $3 GROUP BY tool) used
GROUP BY 1 ORDER BY 2 DESC, 1

-- name: tags
-- The dearest by their names, all others together.
SELECT CASE WHEN place <= $4 THEN tag ELSE '(other)' END AS tag, CASE WHEN place <= $4 THEN value ELSE '(other)' END AS value,
    sum(requests)::bigint AS requests, sum(amount_nanos)::bigint AS amount_nanos
FROM (
    SELECT tag, value, sum(requests) AS requests, sum(amount_nanos) AS amount_nanos,
        row_number() OVER (ORDER BY sum(amount_nanos) DESC, tag, value) AS place
    FROM tags_by_day WHERE account_id = $1 AND day BETWEEN $2 AND $3 GROUP BY tag, value) used
GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2

-- name: conversations
-- With all that they have cost, also before the span; the latest first.
SELECT conversation, requests, amount_nanos, first_at, last_at FROM conversations
WHERE account_id = $1 AND last_at >= $2::date::timestamp AT TIME ZONE 'UTC'
  AND first_at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
ORDER BY last_at DESC, conversation LIMIT $4

-- name: running
-- What was spent lately: today, this month, and in the last hour and the last day, of whose first, broken hour that part
-- counts that lies within.
SELECT today_nanos, month_nanos, per_hour_nanos, per_day_nanos FROM (
    SELECT
        COALESCE(sum(amount_nanos) FILTER (WHERE day = (now() AT TIME ZONE 'UTC')::date), 0)::bigint AS today_nanos,
        COALESCE(sum(amount_nanos), 0)::bigint AS month_nanos
    FROM usage_by_day
    WHERE account_id = $1 AND ($2::uuid IS NULL OR user_id = $2) AND ($3::uuid IS NULL OR key_id = $3)
      AND day >= date_trunc('month', now() AT TIME ZONE 'UTC')::date) by_day, (
    SELECT
        COALESCE(sum(CASE WHEN hour > now() - interval '1 hour' THEN amount_nanos
            WHEN hour > now() - interval '2 hours'
                THEN amount_nanos * (1 - extract(epoch FROM now() - date_trunc('hour', now(), 'UTC')) / 3600) END), 0)::bigint
            AS per_hour_nanos,
        COALESCE(sum(CASE WHEN hour > now() - interval '24 hours' THEN amount_nanos
            ELSE amount_nanos * (1 - extract(epoch FROM now() - date_trunc('hour', now(), 'UTC')) / 3600) END), 0)::bigint
            AS per_day_nanos
    FROM usage_by_hour
    WHERE account_id = $1 AND ($2::uuid IS NULL OR user_id = $2) AND ($3::uuid IS NULL OR key_id = $3)
      AND hour > now() - interval '25 hours') by_hour

-- name: since_hour
-- What was spent since the beginning of an hour, and in that hour.
SELECT COALESCE(sum(amount_nanos), 0)::bigint AS amount_nanos,
    COALESCE(sum(amount_nanos) FILTER (WHERE hour = $4), 0)::bigint AS of_hour_nanos,
    COALESCE(sum(requests) FILTER (WHERE hour = $4), 0)::bigint AS of_hour_requests
FROM usage_by_hour
WHERE account_id = $1 AND ($2::uuid IS NULL OR user_id = $2) AND ($3::uuid IS NULL OR key_id = $3) AND hour >= $4

-- name: part_of_hour
-- What was spent between two instants of an hour, from its rows; NULL where they are not kept any more.
SELECT CASE WHEN $4 >= retained_from() THEN COALESCE(sum(amount_nanos), 0)::bigint END FROM usage_events
WHERE account_id = $1 AND ($2::uuid IS NULL OR user_id = $2) AND ($3::uuid IS NULL OR key_id = $3)
  AND occurred_at >= $4 AND occurred_at < $5

-- name: daily
-- What was spent day by day, days without usage left out; of a key with those that it was rotated to, if they are wanted.
SELECT day, sum(amount_nanos)::bigint AS amount_nanos FROM usage_by_day
WHERE account_id = $1 AND day BETWEEN $2 AND $3 AND ($4::uuid IS NULL OR user_id = $4)
  AND ($5::uuid IS NULL OR key_id = $5 OR $6 AND key_id IN (SELECT k.id FROM keys k WHERE k.origin_id = $5))
GROUP BY day ORDER BY day

-- name: login_began
SELECT created_at FROM logins WHERE id = $1

-- name: report_lines
-- Usage by period and what it was for, up to a number of lines. A period is named by its first day.
SELECT date_trunc($4, day::timestamp)::date AS start, provider, model, operation, sum(requests)::bigint AS requests,
    sum(failures)::bigint AS failures, sum(input_tokens)::bigint AS input_tokens, sum(cached_tokens)::bigint AS cached_tokens,
    sum(output_tokens)::bigint AS output_tokens, sum(amount_nanos)::bigint AS amount_nanos
FROM usage_by_day WHERE account_id = $1 AND day BETWEEN $2 AND $3
GROUP BY 1, 2, 3, 4 ORDER BY 1, amount_nanos DESC, 2, 3, 4 LIMIT $5

-- name: report_sums
-- What came in by people, went out by usage, and was charged without a usage row (which records say for ever that were
-- refused, on the day on which their money was booked), before the span and within it.
SELECT
    (SELECT COALESCE(sum(amount_nanos), 0) FROM ledger_entries
     WHERE account_id = $1 AND request_id IS NULL AND created_at < $2::date::timestamp AT TIME ZONE 'UTC')::bigint AS credited_before,
    (SELECT COALESCE(sum(amount_nanos), 0) FROM usage_by_day WHERE account_id = $1 AND day < $2)::bigint AS used_before,
    (SELECT COALESCE(sum(amount_nanos), 0) FROM usage_by_day WHERE account_id = $1 AND day BETWEEN $2 AND $3)::bigint AS used,
    rowless.before_nanos AS rowless_before, rowless.within_nanos AS rowless, o.name AS organization
FROM accounts a JOIN organizations o ON o.id = a.organization_id, (
    SELECT COALESCE(sum(amount_nanos) FILTER (WHERE rejected_at < $2::date::timestamp AT TIME ZONE 'UTC'), 0)::bigint
            AS before_nanos,
        COALESCE(sum(amount_nanos) FILTER (WHERE rejected_at >= $2::date::timestamp AT TIME ZONE 'UTC'
            AND rejected_at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'), 0)::bigint AS within_nanos
    FROM settle_rejected WHERE account_id = $1 AND booked = 'money') rowless
WHERE a.id = $1

-- name: report_credits
-- What people booked within the span.
SELECT kind, count(*) AS entries, sum(amount_nanos)::bigint AS amount_nanos FROM ledger_entries
WHERE account_id = $1 AND request_id IS NULL AND created_at >= $2::date::timestamp AT TIME ZONE 'UTC'
  AND created_at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
GROUP BY kind ORDER BY kind

-- name: buckets
-- Usage in buckets of whole hours, grouped by what is asked for.
SELECT date_bin($4::interval, hour, $2::timestamptz) AS start, CASE WHEN $9 THEN model END AS model,
    CASE WHEN $10 THEN key_id END AS key_id, CASE WHEN $11 THEN user_id END AS user_id, sum(requests)::bigint AS requests,
    sum(input_tokens)::bigint AS input_tokens, sum(cached_tokens)::bigint AS cached_tokens,
    sum(output_tokens)::bigint AS output_tokens, sum(amount_nanos)::bigint AS amount_nanos
FROM usage_by_hour
WHERE account_id = $1 AND hour >= $2 AND hour < $3 AND ($5::text[] IS NULL OR operation = ANY ($5))
  AND ($6::text[] IS NULL OR model = ANY ($6)) AND ($7::uuid[] IS NULL OR key_id = ANY ($7))
  AND ($8::uuid[] IS NULL OR user_id = ANY ($8))
GROUP BY 1, 2, 3, 4 ORDER BY 1, 9 DESC, 2, 3, 4 LIMIT $12

-- name: short_buckets
-- The same of buckets that are shorter than what rollups tell apart: from the rows of a short time.
SELECT date_bin($4::interval, occurred_at, $2::timestamptz) AS start, CASE WHEN $9 THEN model END AS model,
    CASE WHEN $10 THEN key_id END AS key_id, CASE WHEN $11 THEN user_id END AS user_id, count(*) AS requests,
    sum(tokens_in(input_tokens, cache_write_tokens, other_usage))::bigint AS input_tokens,
    sum(tokens_cached(cache_read_tokens, other_usage))::bigint AS cached_tokens,
    sum(tokens_out(output_tokens, reasoning_tokens, other_usage))::bigint AS output_tokens,
    sum(amount_nanos)::bigint AS amount_nanos
FROM usage_events
WHERE account_id = $1 AND occurred_at >= $2 AND occurred_at < $3 AND ($5::text[] IS NULL OR operation = ANY ($5))
  AND ($6::text[] IS NULL OR model = ANY ($6)) AND ($7::uuid[] IS NULL OR key_id = ANY ($7))
  AND ($8::uuid[] IS NULL OR user_id = ANY ($8))
GROUP BY 1, 2, 3, 4 ORDER BY 1, 9 DESC, 2, 3, 4 LIMIT $12

-- name: searches
-- The searches of a kind ($12) that providers ran, from the rows that have any: an index has just these.
SELECT date_bin($4::interval, occurred_at, $2::timestamptz) AS start, CASE WHEN $8 THEN model END AS model,
    CASE WHEN $9 THEN key_id END AS key_id, CASE WHEN $10 THEN user_id END AS user_id, count(*) AS requests,
    sum((other_usage ->> $12)::bigint)::bigint AS searches
FROM usage_events
WHERE account_id = $1 AND occurred_at >= $2 AND occurred_at < $3 AND (other_usage ? 'web_searches' OR other_usage ? 'file_searches')
  AND (other_usage ->> $12)::bigint > 0 AND ($5::text[] IS NULL OR model = ANY ($5))
  AND ($6::uuid[] IS NULL OR key_id = ANY ($6)) AND ($7::uuid[] IS NULL OR user_id = ANY ($7)) AND operation <> 'logged'
GROUP BY 1, 2, 3, 4 ORDER BY 1, 6 DESC, 2, 3, 4 LIMIT $11
