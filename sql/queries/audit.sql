-- The invariants of the books, each as a query whose rows are what is wrong. All run in one snapshot, so that they hold
-- under traffic. Each answers (subject, detail), at most a hundred rows.

-- name: balance_is_the_sum_of_its_entries
SELECT a.id::text AS subject, format('balance %s, entries %s', a.balance_nanos, COALESCE(e.total, 0)) AS detail
FROM accounts a LEFT JOIN (SELECT account_id, sum(amount_nanos) AS total FROM ledger_entries GROUP BY 1) e ON e.account_id = a.id
WHERE a.balance_nanos <> COALESCE(e.total, 0) LIMIT 100

-- name: credits_are_the_sum_of_what_people_booked
SELECT a.id::text AS subject, format('credits %s, entries %s', a.credits_nanos, COALESCE(e.total, 0)) AS detail
FROM accounts a LEFT JOIN (
    SELECT account_id, sum(amount_nanos) AS total FROM ledger_entries WHERE request_id IS NULL GROUP BY 1) e ON e.account_id = a.id
WHERE a.credits_nanos <> COALESCE(e.total, 0) LIMIT 100

-- name: entry_numbers_have_no_gaps
SELECT a.id::text AS subject, format('last %s, highest %s, entries %s', a.last_entry_no, e.highest, e.entries) AS detail
FROM accounts a LEFT JOIN (
    SELECT account_id, max(entry_no) AS highest, count(*) AS entries FROM ledger_entries GROUP BY 1) e ON e.account_id = a.id
WHERE a.last_entry_no <> COALESCE(e.highest, 0) OR a.last_entry_no <> COALESCE(e.entries, 0) LIMIT 100

-- name: balance_after_chains
SELECT account_id::text AS subject, format('entry %s', entry_no) AS detail FROM (
    SELECT account_id, entry_no, balance_after_nanos, amount_nanos,
        lag(balance_after_nanos, 1, 0::bigint) OVER (PARTITION BY account_id ORDER BY entry_no) AS before
    FROM ledger_entries) chained
WHERE balance_after_nanos <> before + amount_nanos LIMIT 100

-- name: each_charged_row_has_its_entries
-- A row's deduction and overrun are exactly what it says.
SELECT u.id::text AS subject,
    format('row %s of which overrun %s, entries %s and %s', u.amount_nanos, u.overrun_nanos, e.deduction, e.overrun) AS detail
FROM usage_events u LEFT JOIN (
    SELECT account_id, request_id, -sum(amount_nanos) FILTER (WHERE kind = 'deduction') AS deduction,
        -sum(amount_nanos) FILTER (WHERE kind = 'overrun') AS overrun
    FROM ledger_entries WHERE request_id IS NOT NULL GROUP BY 1, 2) e ON e.account_id = u.account_id AND e.request_id = u.id
WHERE COALESCE(e.deduction, 0) <> u.amount_nanos - u.overrun_nanos OR COALESCE(e.overrun, 0) <> u.overrun_nanos LIMIT 100

-- name: each_charge_has_its_row
-- What was charged without a row is what rows of dropped months had cost; without such months nothing.
SELECT account_id::text AS subject,
    format('charged without a row %s (%s entries, the first for request %s), dropped rows %s', e.nanos, e.entries, e.first,
        d.amount_nanos) AS detail
FROM (
    SELECT account_id, -sum(amount_nanos) AS nanos, count(*) AS entries,
        (array_agg(request_id ORDER BY entry_no))[1] AS first
    FROM ledger_entries e
    WHERE e.request_id IS NOT NULL
      AND NOT EXISTS (SELECT FROM usage_events u WHERE u.id = e.request_id AND u.account_id = e.account_id)
      AND NOT EXISTS (SELECT FROM settle_rejected r WHERE r.request_id = e.request_id AND r.account_id = e.account_id
                        AND r.booked = 'money')
    GROUP BY 1) e
FULL JOIN (SELECT account_id, sum(amount_nanos) AS amount_nanos FROM usage_dropped GROUP BY 1) d USING (account_id)
WHERE COALESCE(e.nanos, 0) <> COALESCE(d.amount_nanos, 0) LIMIT 100

-- name: refused_records_are_charged_as_they_are_kept
-- A record that was booked by its money alone is charged what it says, for ever; one of which nothing is booked, nothing.
SELECT request_id::text AS subject, format('%s of %s booked, charged %s', booked, amount_nanos,
    charged_nanos(account_id, request_id)) AS detail
FROM settle_rejected
WHERE booked <> 'row'
  AND charged_nanos(account_id, request_id) <> CASE booked WHEN 'money' THEN amount_nanos ELSE 0 END LIMIT 100

-- name: drawn_is_what_was_lent_and_not_returned
SELECT w.limit_id::text AS subject,
    format('window %s: drawn %s, lent %s, folded %s, overrun %s, late %s, counted %s, unspent %s', w.window_start, w.drawn,
        l.lent, w.folded, w.overrun, w.late, w.counted, w.unspent) AS detail
FROM limit_windows w LEFT JOIN (
    SELECT account_id, limit_id, window_start, sum(granted - returned) AS lent FROM leases GROUP BY 1, 2, 3) l
    USING (account_id, limit_id, window_start)
WHERE w.drawn <> COALESCE(l.lent, 0) + w.folded + w.overrun + w.late + w.counted - w.unspent LIMIT 100

-- name: credit_used_is_what_leases_consumed
-- What usage has cost an account is what its leases paid, those that were folded among them, plus what overran, came late or was only counted, less what
-- durable holds still hold and what they gave back.
SELECT a.id::text AS subject,
    format('used %s, consumed %s, folded %s, overrun %s, late %s, counted %s, unspent %s, held %s',
        a.credits_nanos - a.balance_nanos, l.consumed, w.folded, w.overrun, w.late, w.counted, w.unspent, h.held) AS detail
FROM accounts a JOIN limits c ON c.account_id = a.id AND c.kind = 'credit'
JOIN limit_windows w ON w.account_id = a.id AND w.limit_id = c.id LEFT JOIN (
    SELECT account_id, limit_id, sum(consumed) AS consumed FROM leases GROUP BY 1, 2) l
    ON l.account_id = a.id AND l.limit_id = c.id LEFT JOIN (
    SELECT d.account_id, d.limit_id, sum(d.amount) AS held
    FROM durable_draws d JOIN durable_holds h USING (account_id, request_id) WHERE h.state = 'open' GROUP BY 1, 2) h
    ON h.account_id = a.id AND h.limit_id = c.id
WHERE a.credits_nanos - a.balance_nanos
    <> COALESCE(l.consumed, 0) + w.folded + w.overrun + w.late + w.counted - w.unspent - COALESCE(h.held, 0) LIMIT 100

-- name: unspent_is_what_durable_holds_gave_back
SELECT w.limit_id::text AS subject, format('unspent %s, durable holds %s', w.unspent, b.unspent) AS detail
FROM limit_windows w LEFT JOIN (
    SELECT d.account_id, d.limit_id, d.window_start, sum(d.amount - d.consumed) AS unspent
    FROM durable_draws d JOIN durable_holds h USING (account_id, request_id) WHERE h.state <> 'open' GROUP BY 1, 2, 3) b
    USING (account_id, limit_id, window_start)
WHERE w.unspent <> COALESCE(b.unspent, 0) LIMIT 100

-- name: durable_holds_end_with_their_rows
-- One that has ended has a row of its amount, unless its month was dropped; one that is open has none.
SELECT h.request_id::text AS subject, format('%s with %s, row %s with %s', h.state, h.amount_nanos, u.ending, u.amount_nanos)
    AS detail
FROM durable_holds h
LEFT JOIN usage_events u ON (u.account_id, u.occurred_at, u.id) = (h.account_id, h.placed_at, h.request_id)
WHERE (h.state, h.amount_nanos) IS DISTINCT FROM (COALESCE(u.ending, 'open'), u.amount_nanos)
  AND NOT EXISTS (SELECT FROM settle_rejected r WHERE r.request_id = h.request_id AND r.booked <> 'row')
  AND (h.placed_at >= retained_from() OR h.state = 'open') LIMIT 100

-- name: credit_cap_is_credits_and_overdraft
SELECT a.id::text AS subject, format('cap %s, credits %s, overdraft %s', w.cap, a.credits_nanos, a.overdraft_nanos) AS detail
FROM accounts a JOIN limits c ON c.account_id = a.id AND c.kind = 'credit'
JOIN limit_windows w ON w.account_id = a.id AND w.limit_id = c.id
WHERE w.cap <> a.credits_nanos + a.overdraft_nanos LIMIT 100

-- name: ended_sessions_hold_nothing
SELECT l.session_id::text AS subject, format('limit %s: %s', l.limit_id, l.granted - l.consumed - l.returned) AS detail
FROM leases l JOIN worker_sessions s ON s.id = l.session_id
WHERE s.state IN ('closed', 'proved', 'abandoned') AND l.granted <> l.consumed + l.returned LIMIT 100

-- name: hours_are_the_sum_of_their_rows
WITH counted AS (
    SELECT account_id, date_trunc('hour', occurred_at, 'UTC') AS hour, key_id, user_id, provider, model, operation,
        count(*) AS requests, count(*) FILTER (WHERE outcome <> 'completed') AS failures,
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)) AS input_tokens,
        sum(tokens_cached(cache_read_tokens, other_usage)) AS cached_tokens,
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)) AS output_tokens,
        sum(cost_nanos) AS cost_nanos, sum(amount_nanos) AS amount_nanos
    FROM usage_events WHERE occurred_at >= retained_from() GROUP BY 1, 2, 3, 4, 5, 6, 7)
SELECT account_id::text AS subject, format('hour %s, key %s, user %s, %s %s %s', hour, key_id, user_id, provider, model,
    operation) AS detail
FROM counted e FULL JOIN (SELECT * FROM usage_by_hour WHERE hour >= retained_from()) r
    USING (account_id, hour, key_id, user_id, provider, model, operation)
WHERE (e.requests, e.failures, e.input_tokens, e.cached_tokens, e.output_tokens, e.cost_nanos, e.amount_nanos)
    IS DISTINCT FROM (r.requests, r.failures, r.input_tokens, r.cached_tokens, r.output_tokens, r.cost_nanos, r.amount_nanos)
LIMIT 100

-- name: days_are_the_sum_of_their_rows
WITH counted AS (
    SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date AS day, key_id, user_id, provider, model, operation,
        count(*) AS requests, count(*) FILTER (WHERE outcome <> 'completed') AS failures,
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)) AS input_tokens,
        sum(tokens_cached(cache_read_tokens, other_usage)) AS cached_tokens,
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)) AS output_tokens,
        sum(cost_nanos) AS cost_nanos, sum(amount_nanos) AS amount_nanos
    FROM usage_events WHERE occurred_at >= retained_from() GROUP BY 1, 2, 3, 4, 5, 6, 7)
SELECT account_id::text AS subject, format('day %s, key %s, user %s, %s %s %s', day, key_id, user_id, provider, model,
    operation) AS detail
FROM counted e FULL JOIN (SELECT * FROM usage_by_day WHERE day >= retained_day()) r
    USING (account_id, day, key_id, user_id, provider, model, operation)
WHERE (e.requests, e.failures, e.input_tokens, e.cached_tokens, e.output_tokens, e.cost_nanos, e.amount_nanos)
    IS DISTINCT FROM (r.requests, r.failures, r.input_tokens, r.cached_tokens, r.output_tokens, r.cost_nanos, r.amount_nanos)
LIMIT 100

-- name: rollups_know_what_was_dropped
-- Before the instant from which on rows are kept, rollups are by the month what was dropped and what is about to be.
WITH before AS (
    SELECT month, account_id, sum(requests) AS requests, sum(failures) AS failures, sum(input_tokens) AS input_tokens,
        sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens, sum(cost_nanos) AS cost_nanos,
        sum(amount_nanos) AS amount_nanos
    FROM (SELECT * FROM usage_sums('usage_events', retained_from()) UNION ALL SELECT * FROM usage_dropped) all_rows
    GROUP BY 1, 2
), rolled AS (
    SELECT 'hours' AS rollup, month_of(hour) AS month, account_id, requests, failures, input_tokens, cached_tokens,
        output_tokens, cost_nanos, amount_nanos
    FROM usage_by_hour WHERE hour < retained_from()
    UNION ALL
    SELECT 'days', date_trunc('month', day)::date, account_id, requests, failures, input_tokens, cached_tokens, output_tokens,
        cost_nanos, amount_nanos
    FROM usage_by_day WHERE day < retained_day()
), summed AS (
    SELECT rollup, month, account_id, sum(requests) AS requests, sum(failures) AS failures, sum(input_tokens) AS input_tokens,
        sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens, sum(cost_nanos) AS cost_nanos,
        sum(amount_nanos) AS amount_nanos
    FROM rolled GROUP BY 1, 2, 3)
SELECT account_id::text AS subject,
    format('%s of the month %s: %s requests, %s nanodollars; dropped and left %s, %s', rollup, month, r.requests,
        r.amount_nanos, b.requests, b.amount_nanos) AS detail
FROM (SELECT * FROM before, (VALUES ('hours'), ('days')) AS rollups (rollup)) b
FULL JOIN summed r USING (rollup, month, account_id)
WHERE (b.requests, b.failures, b.input_tokens, b.cached_tokens, b.output_tokens, b.cost_nanos, b.amount_nanos)
    IS DISTINCT FROM (r.requests, r.failures, r.input_tokens, r.cached_tokens, r.output_tokens, r.cost_nanos, r.amount_nanos)
LIMIT 100

-- name: dropped_days_are_the_sum_of_their_hours
-- Where rows are gone, days and hours still bear each other out: by key, user, model and all that they tell apart.
WITH hours AS (
    SELECT account_id, (hour AT TIME ZONE 'UTC')::date AS day, key_id, user_id, provider, model, operation,
        sum(requests) AS requests, sum(failures) AS failures, sum(input_tokens) AS input_tokens,
        sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens, sum(cost_nanos) AS cost_nanos,
        sum(amount_nanos) AS amount_nanos
    FROM usage_by_hour WHERE hour < retained_from() GROUP BY 1, 2, 3, 4, 5, 6, 7)
SELECT account_id::text AS subject, format('day %s, key %s, user %s, %s %s %s', day, key_id, user_id, provider, model,
    operation) AS detail
FROM hours h FULL JOIN (SELECT * FROM usage_by_day WHERE day < retained_day()) d
    USING (account_id, day, key_id, user_id, provider, model, operation)
WHERE (h.requests, h.failures, h.input_tokens, h.cached_tokens, h.output_tokens, h.cost_nanos, h.amount_nanos)
    IS DISTINCT FROM (d.requests, d.failures, d.input_tokens, d.cached_tokens, d.output_tokens, d.cost_nanos, d.amount_nanos)
LIMIT 100

-- name: counts_know_what_was_dropped
-- The same of latencies, tools and tags by the month, and of conversations, which no month bounds, over all time.
WITH before AS (
    SELECT month, account_id, sum(requests) AS requests, sum(tools) AS tools, sum(tags) AS tags,
        sum(tagged_nanos) AS tagged_nanos
    FROM (SELECT * FROM usage_sums('usage_events', retained_from()) UNION ALL SELECT * FROM usage_dropped) all_rows
    GROUP BY 1, 2
), ever AS (
    SELECT account_id, sum(conversing) AS conversing, sum(conversing_nanos) AS conversing_nanos
    FROM (SELECT account_id, count(*) AS conversing, sum(amount_nanos) AS conversing_nanos
          FROM usage_events WHERE conversation IS NOT NULL AND isfinite(retained_from()) GROUP BY 1
          UNION ALL SELECT account_id, conversing, conversing_nanos FROM usage_dropped) all_rows
    GROUP BY 1
), counted AS (
    SELECT 'latencies' AS what, month, account_id, requests, 0::numeric AS amount_nanos FROM before
    UNION ALL SELECT 'tools', month, account_id, tools, 0 FROM before
    UNION ALL SELECT 'tags', month, account_id, tags, tagged_nanos FROM before
    UNION ALL SELECT 'conversations', NULL, account_id, conversing, conversing_nanos FROM ever
), rolled AS (
    SELECT 'latencies' AS what, month_of(hour) AS month, account_id, sum(requests) AS requests, 0::numeric AS amount_nanos
    FROM latency_by_hour WHERE hour < retained_from() GROUP BY 2, 3
    UNION ALL
    SELECT 'tools', date_trunc('month', day)::date, account_id, sum(requests), 0
    FROM tools_by_day WHERE day < retained_day() GROUP BY 2, 3
    UNION ALL
    SELECT 'tags', date_trunc('month', day)::date, account_id, sum(requests), sum(amount_nanos)
    FROM tags_by_day WHERE day < retained_day() GROUP BY 2, 3
    UNION ALL
    SELECT 'conversations', NULL, account_id, sum(requests), sum(amount_nanos)
    FROM conversations WHERE isfinite(retained_from()) GROUP BY 3)
SELECT account_id::text AS subject,
    format('%s of the month %s: %s, %s nanodollars; dropped and left %s, %s', what, month, sum(r_requests), sum(r_nanos),
        sum(b_requests), sum(b_nanos)) AS detail
FROM (
    SELECT what, month, account_id, requests AS b_requests, amount_nanos AS b_nanos, 0 AS r_requests, 0 AS r_nanos FROM counted
    UNION ALL SELECT what, month, account_id, 0, 0, requests, amount_nanos FROM rolled) compared
GROUP BY what, month, account_id
HAVING sum(b_requests) <> sum(r_requests) OR sum(b_nanos) <> sum(r_nanos) LIMIT 100

-- name: latencies_count_every_row
SELECT account_id::text AS subject, format('hour %s, model %s: rows %s, buckets %s', hour, model, e.requests, r.requests) AS detail
FROM (SELECT account_id, date_trunc('hour', occurred_at, 'UTC') AS hour, model, count(*) AS requests
      FROM usage_events WHERE occurred_at >= retained_from() GROUP BY 1, 2, 3) e
FULL JOIN (SELECT account_id, hour, model, sum(requests) AS requests FROM latency_by_hour
           WHERE hour >= retained_from() GROUP BY 1, 2, 3) r
    USING (account_id, hour, model)
WHERE e.requests IS DISTINCT FROM r.requests LIMIT 100

-- name: tools_count_their_rows
SELECT account_id::text AS subject, format('day %s, tool %s: rows %s, counted %s', day, tool, e.requests, r.requests) AS detail
FROM (SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date AS day, tool, count(*) AS requests
      FROM usage_events, unnest(tools) AS tool WHERE occurred_at >= retained_from() GROUP BY 1, 2, 3) e
FULL JOIN (SELECT * FROM tools_by_day WHERE day >= retained_day()) r USING (account_id, day, tool)
WHERE e.requests IS DISTINCT FROM r.requests LIMIT 100

-- name: tags_count_their_rows
-- By day, and no tag more often than rows have it: beyond a number of them the rest is counted together.
SELECT account_id::text AS subject, format('day %s: rows %s, counted %s, tags counted too often %s', day, sum(e_requests),
    sum(r_requests), count(*) FILTER (WHERE is_beyond)) AS detail
FROM (
    SELECT account_id, day, COALESCE(e.requests, 0) AS e_requests, COALESCE(e.amount_nanos, 0) AS e_nanos,
        COALESCE(r.requests, 0) AS r_requests, COALESCE(r.amount_nanos, 0) AS r_nanos,
        tag <> '(other)' AND (r.requests > COALESCE(e.requests, 0) OR r.amount_nanos > COALESCE(e.amount_nanos, 0))
            AS is_beyond
    FROM (SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date AS day, t.key AS tag, count(*) AS requests,
              sum(amount_nanos) AS amount_nanos
          FROM usage_events, jsonb_each_text(tags) t WHERE tags IS NOT NULL AND occurred_at >= retained_from()
          GROUP BY 1, 2, 3) e
    FULL JOIN (SELECT account_id, day, tag, sum(requests) AS requests, sum(amount_nanos) AS amount_nanos
               FROM tags_by_day WHERE day >= retained_day() GROUP BY 1, 2, 3) r USING (account_id, day, tag)) compared
GROUP BY account_id, day
HAVING sum(e_requests) <> sum(r_requests) OR sum(e_nanos) <> sum(r_nanos) OR bool_or(is_beyond) LIMIT 100

-- name: conversations_are_the_sum_of_their_rows
-- Those that began before the instant from which on rows are kept have more than their rows say.
SELECT account_id::text AS subject, format('conversation %s', conversation) AS detail
FROM (SELECT account_id, conversation, min(occurred_at) AS first_at, max(occurred_at) AS last_at, count(*) AS requests,
          sum(amount_nanos) AS amount_nanos
      FROM usage_events WHERE conversation IS NOT NULL GROUP BY 1, 2) e
FULL JOIN conversations r USING (account_id, conversation)
WHERE COALESCE(r.first_at, e.first_at) >= retained_from() AND (e.first_at, e.last_at, e.requests, e.amount_nanos)
    IS DISTINCT FROM (r.first_at, r.last_at, r.requests, r.amount_nanos) LIMIT 100

-- name: each_charged_row_has_its_price
-- A record that was settled with minimal columns may lack it; that one waits for a person anyway.
SELECT u.id::text AS subject, format('price %s', u.price_id) AS detail
FROM usage_events u
WHERE (u.amount_nanos > 0 OR u.cost_nanos > 0) AND NOT EXISTS (SELECT FROM prices p WHERE p.id = u.price_id)
  AND NOT EXISTS (SELECT FROM settle_rejected r WHERE r.request_id = u.id) LIMIT 100

-- name: reversals_undo_their_charges
-- A charge that was given back was given back whole, once, and because another request took the place of its own.
SELECT COALESCE(r.request_id, e.reverses)::text AS subject,
    format('given back %s, charged %s, decided for %s', e.amount_nanos, charged_nanos(e.account_id, e.reverses), r.replaced_by)
    AS detail
FROM (SELECT * FROM replaced_requests WHERE state = 'reversed') r
FULL JOIN (SELECT * FROM ledger_entries WHERE reverses IS NOT NULL) e
    ON (e.account_id, e.reverses) = (r.account_id, r.request_id)
WHERE e.reverses IS NULL OR r.request_id IS NULL OR e.amount_nanos <> charged_nanos(e.account_id, e.reverses) LIMIT 100

-- name: no_key_is_charged_twice
-- Where one request took the place of another and both were charged, the first is given back, or is about to be.
SELECT request_id::text AS subject, format('replaced by %s, %s since %s', replaced_by, state, COALESCE(decided_at, replaced_at))
    AS detail
FROM replaced_requests
WHERE (state = 'pending' AND next_look_at < now() - interval '10 minutes')
    OR (state = 'kept' AND charged_nanos(account_id, request_id) > 0
        AND counts_as_answered(account_id, replaced_by_occurred_at, replaced_by)) LIMIT 100

-- name: kept_answers_are_counted
SELECT account_id::text AS subject, format('counted %s, kept %s', k.bytes, i.bytes) AS detail
FROM kept_answers k FULL JOIN (
    SELECT account_id, sum(answer_bytes) AS bytes FROM idempotent_requests WHERE answer IS NOT NULL GROUP BY 1) i
    USING (account_id)
WHERE COALESCE(k.bytes, 0) <> COALESCE(i.bytes, 0) LIMIT 100

-- name: confirmed_purchases_are_booked
-- A confirmed purchase has its entry, of what was confirmed.
SELECT p.code AS subject, format('confirmed %s, booked %s', p.booked_nanos, COALESCE(e.amount_nanos, 0)) AS detail
FROM purchases p LEFT JOIN ledger_entries e ON (e.account_id, e.entry_no) = (p.account_id, p.entry_no)
WHERE p.state = 'confirmed' AND (e.kind, e.amount_nanos) IS DISTINCT FROM ('purchase', p.booked_nanos) LIMIT 100

-- name: no_record_waits_for_a_person
SELECT request_id::text AS subject, left(error, 200) AS detail FROM settle_rejected
WHERE seen_at IS NULL ORDER BY rejected_at LIMIT 100

-- name: audit_log_is_a_chain
-- Each row of the audit log has its link, each link follows from the row and from the link before, and the last is known.
SELECT COALESCE(l.id::text, 'link ' || c.number) AS subject, 'the audit log was changed here or before' AS detail
FROM audit_log l FULL JOIN (
    SELECT number, audit_id, digest, lag(digest, 1, '\x') OVER chain AS before, row_number() OVER chain AS place
    FROM audit_chain WINDOW chain AS (ORDER BY number)) c ON c.audit_id = l.id
WHERE l.id IS NULL OR c.number IS NULL OR c.number <> c.place OR c.digest <> sha256(c.before || audit_text(l))
UNION ALL
SELECT 'head', format('number %s, links %s', h.number, c.links)
FROM audit_head h, (SELECT count(*) AS links, max(number) AS last FROM audit_chain) c
WHERE h.number <> c.links
    OR h.digest IS DISTINCT FROM COALESCE((SELECT digest FROM audit_chain ORDER BY number DESC LIMIT 1), '\x')
LIMIT 100
