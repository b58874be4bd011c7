-- Durable holds: deferred once, asked about by one worker at a time, captured once by whoever sees the end.

-- name: book_deferrals
-- Part of a settle's transaction, with accounts, windows and leases locked: the holds that are not durable yet, be it
-- that their own journal says so or that their ending came first. Their leases pay all that was held. A request that was
-- settled in any other way stays so; of one whose row was dropped with its month the ledger knows that it was. Of a window that upkeep has let go of nothing is drawn any more. Answers how many were
-- new.
WITH fresh AS (
    INSERT INTO durable_holds (account_id, request_id, placed_at, resource_kind, resource_id, provider, operation, model,
        price_id, hold_nanos, subject, input_estimate)
    SELECT t.* FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::uuid[], $11::bigint[], $12::bytea[], $13::bigint[])
        AS t (account_id, request_id, placed_at, resource_kind, resource_id, provider, operation, model, price_id,
            hold_nanos, subject, input_estimate)
    WHERE NOT EXISTS (SELECT FROM usage_events u
                      WHERE (u.account_id, u.occurred_at, u.id) = (t.account_id, t.placed_at, t.request_id))
      AND NOT EXISTS (SELECT FROM settle_rejected r WHERE r.request_id = t.request_id)
      AND (t.placed_at >= retained_from() OR charged_nanos(t.account_id, t.request_id) = 0)
    ON CONFLICT DO NOTHING
    RETURNING account_id, request_id
), draws AS (
    INSERT INTO durable_draws (account_id, request_id, limit_id, window_start, session_id, amount)
    SELECT s.account_id, s.request_id, s.limit_id, s.window_start, s.session_id, s.consumed
    FROM draw_staging s JOIN fresh USING (account_id, request_id) JOIN limit_windows w USING (account_id, limit_id, window_start)
    WHERE s.batch_id = $1 AND s.counted = 0
    RETURNING *
), drawn AS (
    SELECT account_id, limit_id, window_start, session_id, sum(amount)::bigint AS amount FROM draws GROUP BY 1, 2, 3, 4
), placed AS (
    SELECT d.*, LEAST(d.amount, COALESCE(l.granted - l.consumed - l.returned, 0)) AS within
    FROM drawn d LEFT JOIN leases l USING (account_id, limit_id, window_start, session_id)
), lease_rows AS (
    UPDATE leases l SET consumed = l.consumed + p.within, deferred = l.deferred + p.within, changed_at = now()
    FROM placed p
    WHERE (l.account_id, l.limit_id, l.window_start, l.session_id)
        = (p.account_id, p.limit_id, p.window_start, p.session_id) AND p.within > 0
), window_rows AS (
    UPDATE limit_windows w SET drawn = w.drawn + p.late, late = w.late + p.late
    FROM (SELECT account_id, limit_id, window_start, sum(amount - within)::bigint AS late FROM placed GROUP BY 1, 2, 3) p
    WHERE (w.account_id, w.limit_id, w.window_start) = (p.account_id, p.limit_id, p.window_start) AND p.late > 0
)
SELECT count(*) FROM fresh

-- name: clear_deferral_draws
-- What leases have paid for deferrals is not theirs to pay again for the endings of the same batch.
DELETE FROM draw_staging WHERE batch_id = $1 AND request_id = ANY ($2::uuid[]) AND counted = 0

-- name: drop_deferred
-- A recovery that did not know that its hold had become durable: the durable hold stands.
WITH dropped AS (
    DELETE FROM usage_staging s WHERE s.batch_id = $1 AND s.id = ANY ($2::uuid[])
      AND EXISTS (SELECT FROM durable_holds h WHERE (h.account_id, h.request_id) = (s.account_id, s.id))
    RETURNING s.id
)
DELETE FROM draw_staging d USING dropped WHERE d.batch_id = $1 AND d.request_id = dropped.id

-- name: end_durable
-- Part of a settle's transaction, behind the rows: the durable holds of these requests that are still open end with what
-- was booked for them, and what they had drawn and did not use returns to its limits. One whose ending was refused with
-- nothing booked ends with nothing, too: all of it returns, and a person sees to what it cost.
WITH booked AS (
    SELECT u.account_id, u.id, u.ending, u.amount_nanos, true AS is_charged
    FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) AS t (account_id, occurred_at, id)
    JOIN usage_events u USING (account_id, occurred_at, id)
    UNION ALL
    SELECT r.account_id, r.request_id, CASE WHEN c.is_charged THEN 'captured' ELSE 'released' END,
        CASE WHEN c.is_charged THEN r.amount_nanos ELSE 0 END, c.is_charged
    FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) AS t (account_id, occurred_at, id)
    JOIN settle_rejected r ON r.request_id = t.id AND r.account_id = t.account_id
    CROSS JOIN LATERAL (SELECT r.booked <> 'nothing' AS is_charged) c
    WHERE NOT EXISTS (SELECT FROM usage_events u
                      WHERE (u.account_id, u.occurred_at, u.id) = (t.account_id, t.occurred_at, t.id))
), ended AS (
    UPDATE durable_holds h SET state = b.ending, amount_nanos = b.amount_nanos, ended_at = now() FROM booked b
    WHERE (h.account_id, h.request_id) = (b.account_id, b.id) AND h.state = 'open'
    RETURNING h.account_id, h.request_id, b.is_charged
), taken AS (
    SELECT t.* FROM unnest($4::uuid[], $5::uuid[], $6::uuid[], $7::timestamptz[], $8::bigint[], $9::bigint[])
        AS t (request_id, account_id, limit_id, window_start, consumed, overrun)
    JOIN ended e USING (account_id, request_id) WHERE e.is_charged
), paid AS (
    UPDATE durable_draws d SET consumed = COALESCE((
        SELECT t.consumed FROM taken t WHERE (t.account_id, t.request_id, t.limit_id, t.window_start)
            = (d.account_id, d.request_id, d.limit_id, d.window_start)), 0)
    FROM ended e WHERE (e.account_id, e.request_id) = (d.account_id, d.request_id)
    RETURNING d.account_id, d.limit_id, d.window_start, d.amount - d.consumed AS unspent
), back AS (
    SELECT account_id, limit_id, window_start, sum(unspent)::bigint AS unspent, sum(overrun)::bigint AS overrun
    FROM (
        SELECT account_id, limit_id, window_start, unspent, 0 AS overrun FROM paid
        UNION ALL
        SELECT account_id, limit_id, window_start, 0, overrun FROM taken) sums
    GROUP BY 1, 2, 3
)
UPDATE limit_windows w SET drawn = w.drawn + b.overrun - b.unspent, overrun = w.overrun + b.overrun,
    unspent = w.unspent + b.unspent
FROM back b WHERE (w.account_id, w.limit_id, w.window_start) = (b.account_id, b.limit_id, b.window_start)

-- name: find_durable
SELECT h.subject, h.resource_kind, h.resource_id, h.provider, h.account_id, h.input_estimate, p.document AS price
FROM durable_holds h JOIN prices p ON p.id = h.price_id
WHERE h.account_id = $1 AND h.resource_kind = $2 AND h.resource_id = $3 AND h.state = 'open'

-- name: take_due
-- Holds whose provider is to be asked now, the longest due first; nobody else gets them before the term is over.
WITH due AS (
    SELECT account_id, request_id FROM durable_holds WHERE state = 'open' AND next_poll_at <= now()
    ORDER BY next_poll_at LIMIT $1 FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE durable_holds h SET next_poll_at = now() + make_interval(secs => $2) FROM due
    WHERE (h.account_id, h.request_id) = (due.account_id, due.request_id)
    RETURNING h.*
)
SELECT t.subject, t.resource_kind, t.resource_id, t.provider, t.account_id, t.input_estimate, p.document AS price,
    extract(epoch FROM now() - t.placed_at)::float8 AS age_seconds
FROM taken t JOIN prices p ON p.id = t.price_id

-- name: put_off
UPDATE durable_holds SET next_poll_at = now() + make_interval(secs => $3)
WHERE account_id = $1 AND request_id = $2 AND state = 'open'

-- name: count_durable
SELECT count(*) AS open, COALESCE(extract(epoch FROM now() - min(placed_at)), 0)::float8 AS oldest_seconds
FROM durable_holds WHERE state = 'open'
