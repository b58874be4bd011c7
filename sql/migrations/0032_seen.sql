-- What a person has seen to, what keeps rows of usage from being dropped, and the sums of those that were, by the month.

-- `booked`: what the books have of a record that PostgreSQL refused: its `row` with minimal columns, its `money` alone, or
-- `nothing`. `seen_at`: a person has seen to it.
ALTER TABLE settle_rejected ADD COLUMN booked text, ADD COLUMN seen_at timestamptz;
UPDATE settle_rejected r SET booked = CASE
    WHEN error LIKE 'NOT BOOKED: %' THEN 'nothing'
    WHEN EXISTS (SELECT FROM usage_events u WHERE u.id = r.request_id) THEN 'row'
    WHEN amount_nanos > 0 AND charged_nanos(account_id, request_id) = 0 THEN 'nothing'
    ELSE 'money' END;
ALTER TABLE settle_rejected ALTER COLUMN booked SET NOT NULL,
    ADD CONSTRAINT what_is_booked_is_known CHECK (booked IN ('row', 'money', 'nothing'));

-- What keeps rows from before an instant, which begins a month: why, how many there are, and since when.
--
-- A replaced request that waits for an abandoned session keeps nothing: nobody knows whether it will ever be decided, and
-- the ledger is enough to decide it by.
CREATE FUNCTION usage_kept_by(p_before timestamptz) RETURNS TABLE (reason text, things bigint, since timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT * FROM (
        SELECT 'open durable holds', count(*), min(placed_at) FROM durable_holds
        WHERE state = 'open' AND placed_at < p_before
        UNION ALL
        SELECT 'replaced requests that are not decided', count(*), min(occurred_at) FROM replaced_requests r
        WHERE state = 'pending' AND occurred_at < p_before AND NOT EXISTS (
            SELECT FROM worker_sessions s
            WHERE s.id IN (r.session_id, r.replaced_by_session_id) AND s.state = 'abandoned')
        UNION ALL
        SELECT 'refused records that nobody has seen to', count(*), min(u.occurred_at)
        FROM settle_rejected r JOIN usage_events u ON u.id = r.request_id
        WHERE r.seen_at IS NULL AND u.occurred_at < p_before) AS keeping (reason, things, since)
    WHERE things > 0
$$;

-- Let the months before an instant refuse rows, as far as nothing there still changes; what keeps a month keeps all that
-- follow. Answers the instant from which on rows are kept.
CREATE OR REPLACE FUNCTION advance_retention(p_before timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    before timestamptz := date_trunc('month', p_before, 'UTC');
    part record;
BEGIN
    SELECT date_trunc('month', LEAST(before, min(since)), 'UTC') INTO before FROM usage_kept_by(before);
    IF before <= retained_from() THEN
        RETURN retained_from();
    END IF;
    UPDATE usage_retention SET retained_from = before;
    FOR part IN
        SELECT c.relname, to_date(right(c.relname, 7), 'YYYY_MM') AS month
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'usage_events'::regclass AND c.relname ~ '^usage_events_\d{4}_\d{2}$'
          AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= before
          AND NOT EXISTS (SELECT FROM usage_months_over m WHERE m.partition = c.relname)
    LOOP
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT month_is_over CHECK (false) NOT VALID', part.relname);
        INSERT INTO usage_months_over (partition, month) VALUES (part.relname, part.month);
    END LOOP;
    ALTER TABLE usage_events_default DROP CONSTRAINT IF EXISTS rows_are_retained;
    EXECUTE format('ALTER TABLE usage_events_default ADD CONSTRAINT rows_are_retained CHECK (occurred_at >= %L) NOT VALID', before);
    RETURN before;
END $$;

-- Claims of logged events do not wait for whoever settles, who has the account locked. Accounts are never deleted.
ALTER TABLE logged_events DROP CONSTRAINT logged_events_account_id_fkey;

-- What an event was booked with whose row was dropped since.
ALTER TABLE logged_events ADD COLUMN dropped_amount_nanos bigint;
UPDATE logged_events e SET dropped_amount_nanos = charged_nanos(account_id, request_id)
WHERE occurred_at < retained_from()
  AND NOT EXISTS (SELECT FROM usage_events u
                  WHERE (u.account_id, u.occurred_at, u.id) = (e.account_id, e.occurred_at, e.request_id));

-- The month of an instant, which rollups and dropped rows are compared by.
CREATE FUNCTION month_of(p_at timestamptz) RETURNS date LANGUAGE sql IMMUTABLE AS $$
    SELECT date_trunc('month', p_at AT TIME ZONE 'UTC')::date
$$;

CREATE FUNCTION tags_in(p_tags jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT count(*) FROM jsonb_object_keys(p_tags)
$$;

-- What dropped rows of an account and month add up to, in one line or more, with what rollups say of them: tools called and
-- tags set, each by the row, and rows that belong to a conversation.
ALTER TABLE usage_dropped RENAME TO usage_dropped_before;
CREATE TABLE usage_dropped (
    month date NOT NULL,
    account_id uuid NOT NULL,
    requests bigint NOT NULL,
    failures bigint NOT NULL,
    input_tokens numeric NOT NULL,
    cached_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cost_nanos numeric NOT NULL,
    amount_nanos numeric NOT NULL,
    tools bigint NOT NULL,
    tags bigint NOT NULL,
    tagged_nanos numeric NOT NULL,
    conversing bigint NOT NULL,
    conversing_nanos numeric NOT NULL
);

-- The same of the rows that a table has from before an instant: of all of them, or of one month.
CREATE FUNCTION usage_sums(p_table regclass, p_before timestamptz) RETURNS SETOF usage_dropped LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE format('
        SELECT month_of(occurred_at), account_id, count(*), count(*) FILTER (WHERE outcome <> ''completed''),
            sum(tokens_in(input_tokens, cache_write_tokens, other_usage)),
            sum(tokens_cached(cache_read_tokens, other_usage)),
            sum(tokens_out(output_tokens, reasoning_tokens, other_usage)), sum(cost_nanos), sum(amount_nanos),
            COALESCE(sum(cardinality(tools)), 0)::bigint, sum(tags_in(tags))::bigint, sum(amount_nanos * tags_in(tags)),
            count(conversation), COALESCE(sum(amount_nanos) FILTER (WHERE conversation IS NOT NULL), 0)
        FROM %s WHERE occurred_at < $1 GROUP BY 1, 2', p_table) USING p_before;
END $$;

-- What was dropped before this release, by the month: what rollups say without the rows that are left. Where that is not
-- what was written down by account, the difference stays, under no month, for the audit to tell of.
INSERT INTO usage_dropped
WITH rolled AS (
    SELECT date_trunc('month', day)::date AS month, account_id, sum(requests) AS requests, sum(failures) AS failures,
        sum(input_tokens) AS input_tokens, sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens,
        sum(cost_nanos) AS cost_nanos, sum(amount_nanos) AS amount_nanos
    FROM usage_by_day WHERE day < retained_day() GROUP BY 1, 2
), tooled AS (
    SELECT date_trunc('month', day)::date AS month, account_id, sum(requests) AS tools
    FROM tools_by_day WHERE day < retained_day() GROUP BY 1, 2
), tagged AS (
    SELECT date_trunc('month', day)::date AS month, account_id, sum(requests) AS tags, sum(amount_nanos) AS tagged_nanos
    FROM tags_by_day WHERE day < retained_day() GROUP BY 1, 2
)
SELECT month, account_id, r.requests - COALESCE(l.requests, 0), r.failures - COALESCE(l.failures, 0),
    r.input_tokens - COALESCE(l.input_tokens, 0), r.cached_tokens - COALESCE(l.cached_tokens, 0),
    r.output_tokens - COALESCE(l.output_tokens, 0), r.cost_nanos - COALESCE(l.cost_nanos, 0),
    r.amount_nanos - COALESCE(l.amount_nanos, 0), COALESCE(o.tools, 0) - COALESCE(l.tools, 0),
    COALESCE(t.tags, 0) - COALESCE(l.tags, 0), COALESCE(t.tagged_nanos, 0) - COALESCE(l.tagged_nanos, 0), 0, 0
FROM rolled r LEFT JOIN tooled o USING (month, account_id) LEFT JOIN tagged t USING (month, account_id)
LEFT JOIN usage_sums('usage_events', retained_from()) l USING (month, account_id)
WHERE r.requests <> COALESCE(l.requests, 0)
  AND EXISTS (SELECT FROM usage_dropped_before b WHERE b.account_id = r.account_id);

INSERT INTO usage_dropped
WITH of_months AS (
    SELECT account_id, sum(requests) AS requests, sum(failures) AS failures, sum(input_tokens) AS input_tokens,
        sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens, sum(cost_nanos) AS cost_nanos,
        sum(amount_nanos) AS amount_nanos
    FROM usage_dropped GROUP BY 1
), rest AS (
    SELECT '-infinity'::date AS month, account_id, b.requests - COALESCE(m.requests, 0) AS requests,
        b.failures - COALESCE(m.failures, 0) AS failures, b.input_tokens - COALESCE(m.input_tokens, 0) AS input_tokens,
        b.cached_tokens - COALESCE(m.cached_tokens, 0) AS cached_tokens,
        b.output_tokens - COALESCE(m.output_tokens, 0) AS output_tokens, b.cost_nanos - COALESCE(m.cost_nanos, 0) AS cost_nanos,
        b.amount_nanos - COALESCE(m.amount_nanos, 0) AS amount_nanos
    FROM usage_dropped_before b LEFT JOIN of_months m USING (account_id)
)
SELECT rest.*, 0, 0, 0, 0, 0 FROM rest
WHERE (requests, failures, input_tokens, cached_tokens, output_tokens, cost_nanos, amount_nanos) <> (0, 0, 0, 0, 0, 0, 0);
DROP TABLE usage_dropped_before;

-- Conversations have no month: what of them was dropped is told with the account's last.
UPDATE usage_dropped d SET conversing = COALESCE(t.requests, 0) - COALESCE(l.conversing, 0),
    conversing_nanos = COALESCE(t.amount_nanos, 0) - COALESCE(l.conversing_nanos, 0)
FROM (SELECT account_id, max(month) AS month FROM usage_dropped GROUP BY 1) z
LEFT JOIN (SELECT account_id, sum(requests) AS requests, sum(amount_nanos) AS amount_nanos FROM conversations GROUP BY 1) t
    USING (account_id)
LEFT JOIN (SELECT account_id, count(*) AS conversing, sum(amount_nanos) AS conversing_nanos
           FROM usage_events WHERE conversation IS NOT NULL AND isfinite(retained_from()) GROUP BY 1) l USING (account_id)
WHERE (d.account_id, d.month) = (z.account_id, z.month);

-- Sums of months that are over and not dropped yet are made anew.
DROP TABLE usage_dropping;
CREATE TABLE usage_dropping (LIKE usage_dropped, PRIMARY KEY (month, account_id));
UPDATE usage_months_over SET is_summed = false;

-- Sum up a month that is over, whose rows do not change any more, and tell its logged events what they were booked with.
CREATE OR REPLACE FUNCTION sum_month(p_partition name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_dropping SELECT * FROM usage_sums(p_partition::regclass, 'infinity');
    EXECUTE format('UPDATE logged_events e SET dropped_amount_nanos = u.amount_nanos FROM %I u
        WHERE (u.account_id, u.occurred_at, u.id) = (e.account_id, e.occurred_at, e.request_id)', p_partition);
    UPDATE usage_months_over SET is_summed = true WHERE partition = p_partition;
END $$;

-- Drop a month that was summed up. It waits for who reads; the caller says how long (`lock_timeout`).
CREATE OR REPLACE FUNCTION drop_month(p_partition name) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    rows_gone bigint;
BEGIN
    EXECUTE format('DROP TABLE %I', p_partition);
    WITH gone AS (
        DELETE FROM usage_dropping d USING usage_months_over m
        WHERE m.partition = p_partition AND d.month = m.month RETURNING d.*
    ), sums AS (
        INSERT INTO usage_dropped SELECT * FROM gone
    )
    SELECT COALESCE(sum(requests), 0)::bigint INTO rows_gone FROM gone;
    DELETE FROM usage_months_over WHERE partition = p_partition;
    RETURN rows_gone;
END $$;
