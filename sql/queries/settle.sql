-- Settle: move a batch of endings into the books. One transaction, run in this order by store/settle.py.

-- name: add_journal
-- A journal that settles for the first time starts at nothing.
INSERT INTO journal_progress (journal_id) VALUES ($1) ON CONFLICT DO NOTHING

-- name: read_progress
SELECT position, open_from FROM journal_progress WHERE journal_id = $1

-- name: known_progress
SELECT journal_id, position, open_from FROM journal_progress WHERE journal_id = ANY ($1::uuid[])

-- name: life_is
SELECT known_life() IS NOT DISTINCT FROM $1

-- name: advance_progress
-- Compare and set: only the settler that knows where the journal stands may move it on. A journal that is not known (any
-- more, after a failover) stands at nothing. In a life of the database that the settler does not know nothing is booked
-- before its session has presented its leases, or they could not pay.
INSERT INTO journal_progress AS p (journal_id, position, open_from)
SELECT $1, $3, $4 WHERE ($2::bigint = 0 OR EXISTS (SELECT FROM journal_progress WHERE journal_id = $1))
    AND ($5::uuid IS NULL OR known_life() = $5)
ON CONFLICT (journal_id) DO UPDATE SET position = excluded.position, open_from = excluded.open_from, changed_at = now()
WHERE p.position = $2

-- name: add_prices
-- Prices go in first: the rows name them.
INSERT INTO prices (id, provider, model, document)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[]) ON CONFLICT DO NOTHING

-- name: lock_sessions
-- A session cannot be ended or abandoned while its draws are being booked.
SELECT id FROM worker_sessions WHERE id IN (SELECT session_id FROM draw_staging WHERE batch_id = $1)
ORDER BY id FOR KEY SHARE

-- name: lock_accounts
-- First of all locks on money; also what makes entry numbers and balances chain.
SELECT id FROM accounts WHERE id IN (
    SELECT account_id FROM usage_staging WHERE batch_id = $1 UNION SELECT account_id FROM draw_staging WHERE batch_id = $1)
ORDER BY id FOR UPDATE

-- name: add_windows
-- Windows that nothing was ever lent from, or that were let go of since: limits that only count, and late draws.
INSERT INTO limit_windows (account_id, limit_id, window_start, cap)
SELECT DISTINCT d.account_id, d.limit_id, d.window_start, lends_to(c)
FROM draw_staging d JOIN limits c ON c.id = d.limit_id AND c.account_id = d.account_id
WHERE d.batch_id = $1 AND c.kind <> 'credit' AND (d.counted > 0 OR d.session_id IS DISTINCT FROM $2)
  AND NOT EXISTS (SELECT FROM limit_windows w
                  WHERE (w.account_id, w.limit_id, w.window_start) = (d.account_id, d.limit_id, d.window_start))
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING

-- name: lock_windows
-- Only windows of which `drawn` may change (overruns, limits that count, draws of another session, ends of durable holds),
-- so that lending never waits for others.
SELECT limit_id FROM limit_windows w WHERE EXISTS (
    SELECT FROM draw_staging d WHERE d.batch_id = $1
      AND ($3 OR d.overrun > 0 OR d.counted > 0 OR d.session_id IS DISTINCT FROM $2)
      AND (d.account_id, d.limit_id, d.window_start) = (w.account_id, w.limit_id, w.window_start))
ORDER BY account_id, limit_id, window_start FOR UPDATE

-- name: lock_leases
SELECT l.session_id FROM leases l WHERE EXISTS (
    SELECT FROM draw_staging d WHERE d.batch_id = $1
      AND (d.account_id, d.limit_id, d.window_start, d.session_id)
        = (l.account_id, l.limit_id, l.window_start, l.session_id))
ORDER BY account_id, limit_id, window_start, session_id FOR UPDATE

-- name: book_batch
-- Everything but the rows themselves is computed from what RETURNING gave, so that a replay changes nothing. Draws that
-- carry the batch's id are those of all its rows: whoever staged them undoes this where not all rows were new.
WITH booked AS (
    INSERT INTO usage_events (
        account_id, occurred_at, id, user_id, key_id, session_id, operation, provider, model, served_model, service_tier,
        provider_request_id, is_stream, ending, outcome, status, usage_source, input_tokens, cache_read_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, other_usage, raw_usage, flags, tools, conversation, tags,
        price_id, markup_ppm, bound_input_tokens, bound_output_tokens, hold_nanos, cost_nanos, amount_nanos,
        overrun_nanos, latency_us, first_byte_us, journal_id, journal_position, packed_draws)
    SELECT
        account_id, occurred_at, id, user_id, key_id, session_id, operation, provider, model, served_model, service_tier,
        provider_request_id, is_stream, ending, outcome, status, usage_source, input_tokens, cache_read_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, other_usage, raw_usage, flags, tools, conversation, tags,
        price_id, markup_ppm, bound_input_tokens, bound_output_tokens, hold_nanos, cost_nanos, amount_nanos,
        overrun_nanos, latency_us, first_byte_us, journal_id, journal_position, packed_draws
    FROM usage_staging s WHERE batch_id = $1
        AND NOT EXISTS (SELECT FROM settle_rejected r WHERE r.request_id = s.id)
    ON CONFLICT DO NOTHING
    RETURNING *
), charges AS (
    SELECT account_id, id, journal_position, 'deduction' AS kind, overrun_nanos - amount_nanos AS amount_nanos
    FROM booked WHERE amount_nanos > overrun_nanos
    UNION ALL
    SELECT account_id, id, journal_position, 'overrun', -overrun_nanos FROM booked WHERE overrun_nanos > 0
), entries AS (
    INSERT INTO ledger_entries (account_id, entry_no, kind, amount_nanos, balance_after_nanos, request_id)
    SELECT c.account_id, a.last_entry_no + row_number() OVER chain, c.kind, c.amount_nanos,
        a.balance_nanos + sum(c.amount_nanos) OVER chain, c.id
    FROM charges c JOIN accounts a ON a.id = c.account_id
    WINDOW chain AS (PARTITION BY c.account_id ORDER BY c.journal_position, c.kind ROWS UNBOUNDED PRECEDING)
    RETURNING account_id, amount_nanos
), balances AS (
    UPDATE accounts a SET balance_nanos = a.balance_nanos + e.amount_nanos, last_entry_no = a.last_entry_no + e.entries
    FROM (SELECT account_id, sum(amount_nanos)::bigint AS amount_nanos, count(*) AS entries FROM entries GROUP BY 1) e
    WHERE a.id = e.account_id
), drawn AS (
    SELECT d.account_id, d.limit_id, d.window_start, d.session_id,
        sum(d.consumed)::bigint AS consumed, sum(d.overrun)::bigint AS overrun, sum(d.counted)::bigint AS counted
    FROM draw_staging d
    WHERE d.batch_id = $1 AND (d.request_id = $1 OR d.request_id IN (SELECT id FROM booked)) GROUP BY 1, 2, 3, 4
), placed AS (
    SELECT d.*, LEAST(d.consumed, COALESCE(l.granted - l.consumed - l.returned, 0)) AS within
    FROM drawn d LEFT JOIN leases l USING (account_id, limit_id, window_start, session_id)
), lease_rows AS (
    UPDATE leases l SET consumed = l.consumed + p.within, changed_at = now() FROM placed p
    WHERE (l.account_id, l.limit_id, l.window_start, l.session_id)
        = (p.account_id, p.limit_id, p.window_start, p.session_id) AND p.within > 0
), window_rows AS (
    UPDATE limit_windows w SET drawn = w.drawn + p.overrun + p.late + p.counted, overrun = w.overrun + p.overrun,
        late = w.late + p.late, counted = w.counted + p.counted
    FROM (SELECT account_id, limit_id, window_start, sum(overrun)::bigint AS overrun,
              sum(consumed - within)::bigint AS late, sum(counted)::bigint AS counted
          FROM placed GROUP BY 1, 2, 3) p
    WHERE (w.account_id, w.limit_id, w.window_start) = (p.account_id, p.limit_id, p.window_start)
      AND p.overrun + p.late + p.counted > 0
), by_hour AS (
    INSERT INTO usage_by_hour AS r (account_id, hour, user_id, key_id, provider, model, operation, requests, failures,
        input_tokens, cached_tokens, output_tokens, cost_nanos, amount_nanos)
    SELECT account_id, date_trunc('hour', occurred_at, 'UTC'), user_id, key_id, provider, model, operation, count(*),
        count(*) FILTER (WHERE outcome <> 'completed'),
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)), sum(tokens_cached(cache_read_tokens, other_usage)),
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)), sum(cost_nanos), sum(amount_nanos)
    FROM booked GROUP BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (account_id, hour, key_id, user_id, provider, model, operation) DO UPDATE SET
        requests = r.requests + excluded.requests, failures = r.failures + excluded.failures,
        input_tokens = r.input_tokens + excluded.input_tokens, cached_tokens = r.cached_tokens + excluded.cached_tokens,
        output_tokens = r.output_tokens + excluded.output_tokens, cost_nanos = r.cost_nanos + excluded.cost_nanos,
        amount_nanos = r.amount_nanos + excluded.amount_nanos
), by_day AS (
    INSERT INTO usage_by_day AS r (account_id, day, user_id, key_id, provider, model, operation, requests, failures,
        input_tokens, cached_tokens, output_tokens, cost_nanos, amount_nanos)
    SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date, user_id, key_id, provider, model, operation, count(*),
        count(*) FILTER (WHERE outcome <> 'completed'),
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)), sum(tokens_cached(cache_read_tokens, other_usage)),
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)), sum(cost_nanos), sum(amount_nanos)
    FROM booked GROUP BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (account_id, day, key_id, user_id, provider, model, operation) DO UPDATE SET
        requests = r.requests + excluded.requests, failures = r.failures + excluded.failures,
        input_tokens = r.input_tokens + excluded.input_tokens, cached_tokens = r.cached_tokens + excluded.cached_tokens,
        output_tokens = r.output_tokens + excluded.output_tokens, cost_nanos = r.cost_nanos + excluded.cost_nanos,
        amount_nanos = r.amount_nanos + excluded.amount_nanos
), latency AS (
    INSERT INTO latency_by_hour AS r (account_id, hour, model, bucket, requests)
    SELECT account_id, date_trunc('hour', occurred_at, 'UTC'), model,
        width_bucket(latency_us / 1000, $2::bigint[]), count(*)
    FROM booked GROUP BY 1, 2, 3, 4
    ON CONFLICT (account_id, hour, model, bucket) DO UPDATE SET requests = r.requests + excluded.requests
), tools AS (
    INSERT INTO tools_by_day AS r (account_id, day, tool, requests)
    SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date, tool, count(*)
    FROM booked, unnest(booked.tools) AS tool GROUP BY 1, 2, 3
    ON CONFLICT (account_id, day, tool) DO UPDATE SET requests = r.requests + excluded.requests
), declared AS (
    SELECT t.*, EXISTS (SELECT FROM tags_by_day x WHERE x.account_id = t.account_id AND x.day = t.day
                        AND x.tag = t.tag AND x.value = t.value) AS is_known
    FROM (
        SELECT b.account_id, b.day, t.key AS tag, t.value, count(*) AS requests, sum(b.amount_nanos) AS amount_nanos
        FROM (SELECT *, (occurred_at AT TIME ZONE 'UTC')::date AS day FROM booked WHERE tags IS NOT NULL) b,
            jsonb_each_text(b.tags) t
        GROUP BY 1, 2, 3, 4) t
), tag_days AS (
    -- How many pairs the days have on which there are new ones; it is counted no further than matters.
    SELECT d.account_id, d.day, (SELECT count(*) FROM (
        SELECT FROM tags_by_day x WHERE x.account_id = d.account_id AND x.day = d.day LIMIT 1000) known) AS pairs
    FROM (SELECT DISTINCT account_id, day FROM declared WHERE NOT is_known) d
), told_apart AS (
    -- At most a thousand (tag, value) pairs a day and account are told apart. A tag that is new by then is not even named,
    -- as clients could name any number of them.
    SELECT d.*, d.is_known OR g.pairs + count(*) FILTER (WHERE NOT d.is_known)
        OVER (PARTITION BY d.account_id, d.day ORDER BY d.tag, d.value ROWS UNBOUNDED PRECEDING) <= 1000 AS is_apart
    FROM declared d LEFT JOIN tag_days g USING (account_id, day)
), named AS (
    SELECT t.account_id, t.day, CASE WHEN bool_or(t.is_apart) OVER (PARTITION BY t.account_id, t.day, t.tag)
            OR EXISTS (SELECT FROM tags_by_day x WHERE x.account_id = t.account_id AND x.day = t.day AND x.tag = t.tag)
            THEN t.tag ELSE '(other)' END AS tag,
        CASE WHEN t.is_apart THEN t.value ELSE '(other)' END AS value, t.requests, t.amount_nanos
    FROM told_apart t
), tags AS (
    INSERT INTO tags_by_day AS r (account_id, day, tag, value, requests, amount_nanos)
    SELECT account_id, day, tag, value, sum(requests), sum(amount_nanos) FROM named GROUP BY 1, 2, 3, 4
    ON CONFLICT (account_id, day, tag, value) DO UPDATE SET
        requests = r.requests + excluded.requests, amount_nanos = r.amount_nanos + excluded.amount_nanos
), conversation_rows AS (
    INSERT INTO conversations AS r (account_id, conversation, first_at, last_at, requests, amount_nanos)
    SELECT account_id, conversation, min(occurred_at), max(occurred_at), count(*), sum(amount_nanos)
    FROM booked WHERE conversation IS NOT NULL GROUP BY 1, 2
    ON CONFLICT (account_id, conversation) DO UPDATE SET
        first_at = LEAST(r.first_at, excluded.first_at), last_at = GREATEST(r.last_at, excluded.last_at),
        requests = r.requests + excluded.requests, amount_nanos = r.amount_nanos + excluded.amount_nanos
)
SELECT count(*) AS booked, count(DISTINCT account_id) AS accounts FROM booked

-- name: clear_staging
WITH cleared AS (DELETE FROM draw_staging WHERE batch_id = $1)
DELETE FROM usage_staging WHERE batch_id = $1

-- name: lock_account
SELECT id FROM accounts WHERE id = $1 FOR UPDATE

-- name: note_rejected
-- The record was booked with minimal columns; the whole of it is kept for a person.
INSERT INTO settle_rejected
    (request_id, account_id, amount_nanos, overrun_nanos, journal_id, journal_position, error, record, booked)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'row') ON CONFLICT DO NOTHING

-- name: add_rejected
-- The record that no row can hold: kept whole for a person. Its insertion decides whether its money is still to be booked:
-- not where it has a row; nor where its durable hold has ended, or stands because a recovery ($10) did not know of it; nor
-- where it belongs to a month that was dropped and the ledger has charged for it, or it costs nothing and ends no durable
-- hold.
INSERT INTO settle_rejected
    (request_id, account_id, amount_nanos, overrun_nanos, journal_id, journal_position, error, record, booked)
SELECT $1::uuid, $2::uuid, $3::bigint, $4, $5, $6, $7, $8, 'money'
WHERE NOT EXISTS (SELECT FROM usage_events WHERE id = $1)
  AND NOT EXISTS (SELECT FROM durable_holds WHERE account_id = $2 AND request_id = $1 AND (state <> 'open' OR $10))
  AND ($9::timestamptz >= retained_from()
       OR $3 > 0 AND NOT EXISTS (SELECT FROM ledger_entries WHERE account_id = $2 AND request_id = $1)
       OR EXISTS (SELECT FROM durable_holds WHERE account_id = $2 AND request_id = $1 AND state = 'open'))
ON CONFLICT DO NOTHING
RETURNING request_id

-- name: keep_rejected
-- The last resort: the record alone, with nothing booked. The invariants name it until a person has seen to it. One that the
-- books have already, by its row or by what the ledger has charged for it, misses nothing.
INSERT INTO settle_rejected
    (request_id, account_id, amount_nanos, overrun_nanos, journal_id, journal_position, error, record, booked)
SELECT $1::uuid, $2::uuid, $3, $4, $5, $6, 'NOT BOOKED: ' || $7, $8, 'nothing'
WHERE NOT EXISTS (SELECT FROM usage_events WHERE id = $1)
  AND NOT EXISTS (SELECT FROM ledger_entries WHERE account_id = $2 AND request_id = $1)
ON CONFLICT DO NOTHING
RETURNING request_id

-- name: lock_session
SELECT id FROM worker_sessions WHERE id = $1 FOR KEY SHARE

-- name: add_window
INSERT INTO limit_windows (account_id, limit_id, window_start, cap)
SELECT c.account_id, c.id, $3, lends_to(c) FROM limits c
WHERE c.account_id = $1 AND c.id = $2 AND c.kind <> 'credit' ON CONFLICT DO NOTHING

-- name: lock_window
SELECT limit_id FROM limit_windows WHERE account_id = $1 AND limit_id = $2 AND window_start = $3 FOR UPDATE

-- name: lock_lease
SELECT session_id FROM leases WHERE account_id = $1 AND limit_id = $2 AND window_start = $3 AND session_id = $4 FOR UPDATE

-- name: charge_rejected
-- One ledger entry of a rejected record, chained like any other.
WITH account AS (
    UPDATE accounts SET balance_nanos = balance_nanos - $3, last_entry_no = last_entry_no + 1
    WHERE id = $1 RETURNING balance_nanos, last_entry_no
)
INSERT INTO ledger_entries (account_id, entry_no, kind, amount_nanos, balance_after_nanos, request_id, description)
SELECT $1, last_entry_no, $4, -$3, balance_nanos, $2, 'settled with minimal columns' FROM account

-- name: draw_rejected
-- What a rejected record consumed of one lease; what does not fit the lease (or overran) raises `drawn` of its window.
WITH lease AS (
    SELECT LEAST($5::bigint, granted - consumed - returned) AS within FROM leases
    WHERE account_id = $1 AND limit_id = $2 AND window_start = $3 AND session_id = $4
), consumed AS (
    UPDATE leases l SET consumed = l.consumed + lease.within, changed_at = now() FROM lease
    WHERE l.account_id = $1 AND l.limit_id = $2 AND l.window_start = $3 AND l.session_id = $4
)
UPDATE limit_windows SET
    drawn = drawn + $6 + $7 + $5 - COALESCE((SELECT within FROM lease), 0),
    overrun = overrun + $6,
    late = late + $5 - COALESCE((SELECT within FROM lease), 0),
    counted = counted + $7
WHERE account_id = $1 AND limit_id = $2 AND window_start = $3
