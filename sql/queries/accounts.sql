-- Accounts, organizations, users and the entries that people make.

-- name: create_organization
INSERT INTO organizations (id, name) VALUES ($1, $2)

-- name: create_account
INSERT INTO accounts (id, organization_id, overdraft_nanos) VALUES ($1, $2, $3)

-- name: create_user
INSERT INTO users (id, organization_id, name, email, is_service) VALUES ($1, $2, $3, $4, $5)
RETURNING id, organization_id, name, email, is_service, created_at

-- name: create_credit_limit
-- Credit is a limit like any other; what people grant becomes its cap.
WITH credit AS (
    INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, window_kind)
    VALUES ($1, $2, 'credit', 'account', $2, 'amount', 'none') RETURNING id, account_id
)
INSERT INTO limit_windows (account_id, limit_id, window_start, cap) SELECT account_id, id, 'epoch', $3 FROM credit

-- name: read_account
-- What is held is what workers last reported and what durable holds hold.
SELECT a.id, a.organization_id, o.name AS organization, a.balance_nanos, a.credits_nanos, a.overdraft_nanos, a.created_at, a.frozen_at,
    COALESCE((SELECT sum(granted - consumed - returned) FROM leases l WHERE l.account_id = a.id AND l.limit_id = c.id), 0)::bigint
        AS leased_nanos,
    (COALESCE((SELECT sum(held) FROM leases l WHERE l.account_id = a.id AND l.limit_id = c.id), 0)
        + COALESCE((SELECT sum(hold_nanos) FROM durable_holds h WHERE h.account_id = a.id AND h.state = 'open'), 0))::bigint
        AS held_nanos,
    clock_timestamp() AS as_of
FROM accounts a JOIN organizations o ON o.id = a.organization_id JOIN limits c ON c.account_id = a.id AND c.kind = 'credit'
WHERE a.id = $1

-- name: list_accounts
SELECT a.id, a.organization_id, o.name AS organization, a.balance_nanos, a.credits_nanos, a.overdraft_nanos, a.created_at, a.frozen_at,
    COALESCE((SELECT sum(granted - consumed - returned) FROM leases l WHERE l.account_id = a.id AND l.limit_id = c.id), 0)::bigint
        AS leased_nanos,
    (COALESCE((SELECT sum(held) FROM leases l WHERE l.account_id = a.id AND l.limit_id = c.id), 0)
        + COALESCE((SELECT sum(hold_nanos) FROM durable_holds h WHERE h.account_id = a.id AND h.state = 'open'), 0))::bigint
        AS held_nanos,
    clock_timestamp() AS as_of
FROM accounts a JOIN organizations o ON o.id = a.organization_id JOIN limits c ON c.account_id = a.id AND c.kind = 'credit'
WHERE $1::uuid IS NULL OR a.id > $1 ORDER BY a.id LIMIT $2

-- name: change_account
-- Called with the account locked; the cap of its credit moves with its overdraft. Frozen twice keeps the first instant.
WITH account AS (
    UPDATE accounts SET overdraft_nanos = COALESCE($2::bigint, overdraft_nanos),
        frozen_at = CASE WHEN $3::boolean IS NULL THEN frozen_at WHEN $3 THEN COALESCE(frozen_at, now()) END
    WHERE id = $1 RETURNING id, credits_nanos, overdraft_nanos
)
UPDATE limit_windows w SET cap = account.credits_nanos + account.overdraft_nanos
FROM account JOIN limits c ON c.account_id = account.id AND c.kind = 'credit'
WHERE w.account_id = account.id AND w.limit_id = c.id AND $2::bigint IS NOT NULL

-- name: rename_organization
-- Called with the account locked; answers the name before.
UPDATE organizations o SET name = $2 FROM organizations old JOIN accounts a ON a.organization_id = old.id
WHERE a.id = $1 AND o.id = old.id RETURNING old.name

-- name: find_account
-- By name of its organization, for people at a command line.
SELECT a.id FROM accounts a JOIN organizations o ON o.id = a.organization_id WHERE o.name = $1 ORDER BY a.id LIMIT 1

-- name: account_of_organization
SELECT id FROM accounts WHERE organization_id = $1

-- name: lock_account
SELECT id, balance_nanos, credits_nanos, last_entry_no FROM accounts WHERE id = $1 FOR UPDATE

-- name: find_entry
SELECT account_id, entry_no, kind, amount_nanos, balance_after_nanos, request_id, description, actor, idempotency_key,
    idempotency_digest, created_at
FROM ledger_entries WHERE account_id = $1 AND idempotency_key = $2

-- name: add_entry
-- Called with the account locked; the cap of its credit moves with its credits. `$8` is when it came in, NULL now.
WITH account AS (
    UPDATE accounts SET credits_nanos = credits_nanos + $3, balance_nanos = balance_nanos + $3,
        last_entry_no = last_entry_no + 1
    WHERE id = $1 RETURNING id, balance_nanos, credits_nanos, overdraft_nanos, last_entry_no
), credit AS (
    UPDATE limit_windows w SET cap = account.credits_nanos + account.overdraft_nanos
    FROM account JOIN limits c ON c.account_id = account.id AND c.kind = 'credit'
    WHERE w.account_id = account.id AND w.limit_id = c.id
)
INSERT INTO ledger_entries
    (account_id, entry_no, kind, amount_nanos, balance_after_nanos, description, actor, idempotency_key, idempotency_digest,
     created_at)
SELECT id, last_entry_no, $2, $3, balance_nanos, $4, $5, $6, $7, COALESCE($8, now()) FROM account
RETURNING account_id, entry_no, kind, amount_nanos, balance_after_nanos, request_id, description, actor, idempotency_key,
    idempotency_digest, created_at

-- name: lift_credit_marks
-- What is above its mark again may fall below it again; see `mark_credit` of the notifications.
UPDATE credit_marks m SET
    low_since = CASE WHEN a.balance_nanos + a.overdraft_nanos < m.below_nanos THEN m.low_since END,
    exhausted_since = CASE WHEN a.balance_nanos + a.overdraft_nanos < 10000000 THEN m.exhausted_since END
FROM accounts a
WHERE m.account_id = $1 AND a.id = m.account_id AND (m.low_since IS NOT NULL OR m.exhausted_since IS NOT NULL)

-- name: credit_limit
SELECT id FROM limits WHERE account_id = $1 AND kind = 'credit'

-- name: list_entries
-- Newest first, below an entry number.
SELECT account_id, entry_no, kind, amount_nanos, balance_after_nanos, request_id, description, actor, idempotency_key,
    idempotency_digest, created_at
FROM entries($1, $2, $3, $4) ORDER BY entry_no DESC

-- name: export_entries_csv
-- A page of them as lines of a CSV file, made where the rows are; with the number of its last row.
SELECT string_agg(concat_ws(',',
        entry_no, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), kind, usd(amount_nanos),
        usd(balance_after_nanos), COALESCE(request_id::text, ''), csv_cell(description)) || E'\r\n', ''
        ORDER BY entry_no DESC) AS text,
    count(*) AS rows, min(entry_no) AS last_no
FROM entries($1, $2, $3, $4)

-- name: export_entries_json
-- The same as JSON objects with commas between.
SELECT string_agg(jsonb_build_object(
        'entry_no', entry_no, 'created_at', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'kind', kind, 'amount', usd(amount_nanos), 'amount_nanos', amount_nanos, 'balance_after', usd(balance_after_nanos),
        'balance_after_nanos', balance_after_nanos, 'request_id', request_id, 'description', description)::text,
        E',\n' ORDER BY entry_no DESC) AS text,
    count(*) AS rows, min(entry_no) AS last_no
FROM entries($1, $2, $3, $4)

-- name: service_user
SELECT u.id FROM users u JOIN accounts a USING (organization_id) WHERE a.id = $1 AND u.is_service

-- name: is_service_of
SELECT EXISTS (SELECT FROM users u JOIN accounts a USING (organization_id) WHERE a.id = $2 AND u.id = $1 AND u.is_service)

-- name: record_change
SELECT record_change($1, $2)

-- name: record_account_change
-- A change of what workers keep of the account itself.
SELECT record_change($1, $2, $3)

-- name: add_audit
INSERT INTO audit_log (actor, action, subject_kind, subject_id, detail) VALUES ($1, $2, $3, $4, $5)

-- name: look_at_accounts
-- What moves when anything is booked or held.
SELECT a.id, a.last_entry_no, a.balance_nanos, a.credits_nanos, a.overdraft_nanos,
    COALESCE((SELECT sum(l.held) FROM leases l JOIN limits c ON c.id = l.limit_id AND c.kind = 'credit'
              WHERE l.account_id = a.id), 0)::bigint AS held_nanos
FROM accounts a WHERE a.id = ANY ($1::uuid[])
