-- Notifications: what people hear of, who has read it, and when credit falls below its marks.

-- name: list_notifications
-- What somebody may see, the latest first, below a cursor: all of the account ($2 NULL) or what is his; purchases only
-- where he may see them ($3). $4 is who reads.
SELECT n.id, n.kind, n.subject_id, n.detail, n.occurred_at, r.read_at
FROM notifications n LEFT JOIN notification_reads r ON r.notification_id = n.id AND r.user_id = $4
WHERE n.account_id = $1 AND ($2::uuid IS NULL OR n.user_id = $2) AND ($3 OR NOT n.for_payers)
  AND ($5::bigint IS NULL OR n.id < $5) AND (r.read_at IS NULL OR NOT $6)
ORDER BY n.id DESC LIMIT $7

-- name: count_unread
-- Of the latest thousand, and as many as anybody wants to see a number of: each page asks.
SELECT count(*) FROM (
    SELECT FROM (
        SELECT n.id FROM notifications n
        WHERE n.account_id = $1 AND ($2::uuid IS NULL OR n.user_id = $2) AND ($3 OR NOT n.for_payers)
        ORDER BY n.id DESC LIMIT 1000) latest
    WHERE NOT EXISTS (SELECT FROM notification_reads r WHERE r.notification_id = latest.id AND r.user_id = $4)
    LIMIT $5) unread

-- name: mark_read
-- One that somebody may see ($5), or all of them (NULL). Read twice keeps the first instant.
INSERT INTO notification_reads (notification_id, user_id)
SELECT n.id, $4 FROM notifications n
WHERE n.account_id = $1 AND ($2::uuid IS NULL OR n.user_id = $2) AND ($3 OR NOT n.for_payers)
  AND ($5::bigint IS NULL OR n.id = $5)
  AND NOT EXISTS (SELECT FROM notification_reads r WHERE r.notification_id = n.id AND r.user_id = $4)
ON CONFLICT DO NOTHING

-- name: is_seen
SELECT EXISTS (SELECT FROM notifications n
    WHERE n.account_id = $1 AND ($2::uuid IS NULL OR n.user_id = $2) AND ($3 OR NOT n.for_payers) AND n.id = $4)

-- name: delete_old_notifications
-- A slice at a time.
DELETE FROM notifications WHERE id IN (
    SELECT id FROM notifications WHERE occurred_at < now() - make_interval(days => $1) LIMIT $2 FOR UPDATE SKIP LOCKED)

-- name: mark_credit
-- Called with accounts in which something was settled. What has fallen below its mark since it was last above is told
-- once, whoever looks: the mark's row decides. Below one cent credit counts as used up, since hardly any request fits into
-- that. Accounts that nothing was ever booked in have nothing to tell.
WITH looked AS MATERIALIZED (
    SELECT m.account_id, a.balance_nanos + a.overdraft_nanos AS left_nanos, m.below_nanos, m.low_since, m.exhausted_since
    FROM credit_marks m JOIN accounts a ON a.id = m.account_id
    WHERE m.account_id = ANY ($1::uuid[]) AND a.last_entry_no > 0
      AND ((m.low_since IS NULL) = COALESCE(a.balance_nanos + a.overdraft_nanos < m.below_nanos, false)
        OR (m.exhausted_since IS NULL) = (a.balance_nanos + a.overdraft_nanos < 10000000))
    ORDER BY m.account_id FOR UPDATE OF m
), moved AS (
    UPDATE credit_marks m SET
        low_since = CASE WHEN l.left_nanos < l.below_nanos THEN COALESCE(m.low_since, now()) END,
        exhausted_since = CASE WHEN l.left_nanos < 10000000 THEN COALESCE(m.exhausted_since, now()) END
    FROM looked l WHERE m.account_id = l.account_id
)
INSERT INTO notifications (account_id, kind, subject_id, detail)
SELECT account_id, CASE WHEN exhausted_since IS NULL AND left_nanos < 10000000 THEN 'credit.exhausted' ELSE 'credit.low' END,
    account_id, jsonb_build_object('left_nanos', left_nanos, 'below_nanos', below_nanos)
FROM looked
WHERE (low_since IS NULL AND left_nanos < below_nanos) OR (exhausted_since IS NULL AND left_nanos < 10000000)
RETURNING account_id, kind

-- name: accounts_with_marks
-- A page of them all: what is looked through in case the worker that settled something last was killed before it looked.
SELECT account_id FROM credit_marks WHERE account_id > $1 ORDER BY account_id LIMIT $2

-- name: read_mark
SELECT below_nanos, recharge_nanos, runs_out_days FROM credit_marks WHERE account_id = $1

-- name: set_mark
-- $5 names what stays as it is; without a mark nothing is ordered by itself. Who wants to hear of other days hears anew.
INSERT INTO credit_marks AS m (account_id, below_nanos, recharge_nanos, runs_out_days)
VALUES ($1, $2, CASE WHEN $2::bigint IS NOT NULL THEN $3::bigint END, $4)
ON CONFLICT (account_id) DO UPDATE SET below_nanos = excluded.below_nanos,
    recharge_nanos = CASE WHEN NOT 'recharge_nanos' = ANY ($5::text[]) THEN excluded.recharge_nanos
        WHEN excluded.below_nanos IS NOT NULL THEN m.recharge_nanos END,
    runs_out_days = CASE WHEN 'runs_out_days' = ANY ($5) THEN m.runs_out_days ELSE excluded.runs_out_days END,
    runs_out_since = CASE WHEN 'runs_out_days' = ANY ($5) OR m.runs_out_days = excluded.runs_out_days THEN m.runs_out_since END
RETURNING below_nanos, recharge_nanos, runs_out_days
