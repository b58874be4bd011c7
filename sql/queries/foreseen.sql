-- Foreseen: whose credit will soon be used up, as a forecast says.

-- name: take_turn
-- Whoever comes first after so many seconds looks at all accounts; no row: somebody has.
UPDATE forecast_looks SET looked_at = now() WHERE looked_at < now() - make_interval(secs => $1) RETURNING true

-- name: accounts_to_foresee
-- A page of the accounts whose people want to be told, with what they have spent by day. Nothing is expected of a day that
-- is more than the most that was spent on one: where more than that times the days is left, the days are left out, unless
-- it was told otherwise.
SELECT m.account_id, m.runs_out_days, m.runs_out_since IS NOT NULL AS is_told, m.left_nanos,
    CASE WHEN m.runs_out_since IS NOT NULL OR m.left_nanos::numeric <= spent.most::numeric * m.runs_out_days
        THEN spent.days ELSE '{}' END AS days,
    spent.nanos, (now() AT TIME ZONE 'UTC')::date AS today
FROM (
    SELECT c.account_id, c.runs_out_days, c.runs_out_since, a.balance_nanos + a.overdraft_nanos AS left_nanos
    FROM credit_marks c JOIN accounts a ON a.id = c.account_id
    WHERE c.account_id > $1 ORDER BY c.account_id LIMIT $2) m
CROSS JOIN LATERAL (
    SELECT COALESCE(array_agg(day), '{}') AS days, array_agg(nanos) AS nanos, max(nanos) AS most FROM (
        SELECT day, sum(amount_nanos)::bigint AS nanos FROM usage_by_day
        WHERE account_id = m.account_id AND m.runs_out_days IS NOT NULL
          AND day >= (now() AT TIME ZONE 'UTC')::date - $3::int AND day < (now() AT TIME ZONE 'UTC')::date
        GROUP BY day) by_day
    ) spent
ORDER BY m.account_id

-- name: tell
-- Once until it is taken back, whoever looks: the mark's row decides, and whether it is still the one that was looked at.
WITH told AS (
    UPDATE credit_marks SET runs_out_since = now()
    WHERE account_id = $1 AND runs_out_days = $2 AND runs_out_since IS NULL RETURNING account_id
)
INSERT INTO notifications (account_id, kind, subject_id, detail)
SELECT account_id, 'credit.runs_out', account_id, $3::jsonb FROM told RETURNING account_id

-- name: take_back
UPDATE credit_marks SET runs_out_since = NULL WHERE account_id = $1 AND runs_out_days = $2
