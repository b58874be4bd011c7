-- Retention: old months of usage rows are dropped, and what they said stays as sums.
--
-- A row is what keeps its request from being booked again, so nothing may be booked before the instant from which rows
-- are kept: the months before it refuse new rows, and settle books the money of a record that comes so late alone, if the
-- ledger has not charged for it yet.

CREATE TABLE usage_retention (
    is_the_only boolean PRIMARY KEY DEFAULT true CHECK (is_the_only),
    retained_from timestamptz NOT NULL
);
INSERT INTO usage_retention (retained_from) VALUES ('-infinity');

-- The instant from which on usage rows are kept; it never goes back.
CREATE FUNCTION retained_from() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT retained_from FROM usage_retention $$;

-- The same as a day of UTC, which is how rollups count; `-infinity` where all rows are kept.
CREATE FUNCTION retained_day() RETURNS date LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN isfinite(retained_from) THEN (retained_from AT TIME ZONE 'UTC')::date ELSE '-infinity' END
    FROM usage_retention
$$;

-- What dropped rows of an account add up to: the difference between what is there and what rollups and ledger say.
CREATE TABLE usage_dropped (
    account_id uuid PRIMARY KEY,
    requests bigint NOT NULL,
    failures bigint NOT NULL,
    input_tokens numeric NOT NULL,
    cached_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cost_nanos numeric NOT NULL,
    amount_nanos numeric NOT NULL
);

-- The same of a month that is over and about to be dropped: summed up while nothing waits for it.
CREATE TABLE usage_dropping (month date NOT NULL, LIKE usage_dropped, PRIMARY KEY (month, account_id));

-- Months that refuse rows, by the names of their partitions; gone from here when they are dropped.
CREATE TABLE usage_months_over (
    partition name PRIMARY KEY,
    month date NOT NULL,
    is_summed boolean NOT NULL DEFAULT false
);

-- Let the months before an instant refuse rows, as far as nothing there still changes: durable holds that are open,
-- replaced requests that are undecided and records that wait for a person keep their month and all that follow. Answers
-- the instant from which on rows are kept.
CREATE FUNCTION advance_retention(p_before timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    before timestamptz;
    part record;
BEGIN
    SELECT date_trunc('month', LEAST(
        p_before,
        (SELECT min(placed_at) FROM durable_holds WHERE state = 'open'),
        (SELECT min(occurred_at) FROM replaced_requests WHERE state = 'pending'),
        (SELECT min(u.occurred_at) FROM settle_rejected r JOIN usage_events u ON u.id = r.request_id)
    ), 'UTC') INTO before;
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

-- Sum up a month that is over, whose rows do not change any more.
CREATE FUNCTION sum_month(p_partition name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO usage_dropping SELECT m.month, s.* FROM usage_months_over m, (
        SELECT account_id, count(*), count(*) FILTER (WHERE outcome <> ''completed''),
            sum(tokens_in(input_tokens, cache_write_tokens, other_usage)),
            sum(tokens_cached(cache_read_tokens, other_usage)),
            sum(tokens_out(output_tokens, reasoning_tokens, other_usage)), sum(cost_nanos), sum(amount_nanos)
        FROM %I GROUP BY account_id) s WHERE m.partition = %L', p_partition, p_partition);
    UPDATE usage_months_over SET is_summed = true WHERE partition = p_partition;
END $$;

-- Drop a month that was summed up. It waits for who reads; the caller says how long (`lock_timeout`).
CREATE FUNCTION drop_month(p_partition name) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    rows_gone bigint;
BEGIN
    EXECUTE format('DROP TABLE %I', p_partition);
    WITH gone AS (
        DELETE FROM usage_dropping d USING usage_months_over m
        WHERE m.partition = p_partition AND d.month = m.month RETURNING d.*
    ), sums AS (
        INSERT INTO usage_dropped AS t (account_id, requests, failures, input_tokens, cached_tokens, output_tokens, cost_nanos,
            amount_nanos)
        SELECT account_id, requests, failures, input_tokens, cached_tokens, output_tokens, cost_nanos, amount_nanos FROM gone
        ON CONFLICT (account_id) DO UPDATE SET
            requests = t.requests + excluded.requests, failures = t.failures + excluded.failures,
            input_tokens = t.input_tokens + excluded.input_tokens, cached_tokens = t.cached_tokens + excluded.cached_tokens,
            output_tokens = t.output_tokens + excluded.output_tokens, cost_nanos = t.cost_nanos + excluded.cost_nanos,
            amount_nanos = t.amount_nanos + excluded.amount_nanos
    )
    SELECT COALESCE(sum(requests), 0)::bigint INTO rows_gone FROM gone;
    DELETE FROM usage_months_over WHERE partition = p_partition;
    RETURN rows_gone;
END $$;
