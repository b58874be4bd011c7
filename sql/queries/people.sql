-- People: who they are, where they belong, how they sign in.

-- name: create_person
INSERT INTO users (id, organization_id, name, email, password_hash, is_operator) VALUES ($1, $2, $3, $4, $5, $6)

-- name: has_operator
SELECT EXISTS (SELECT FROM users WHERE is_operator)

-- name: lock_people
-- Two hosts that start at once make one operator.
LOCK TABLE memberships IN SHARE ROW EXCLUSIVE MODE

-- name: first_organization
SELECT id FROM organizations ORDER BY created_at, id LIMIT 1

-- name: add_member
INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, $3)

-- name: find_by_email
SELECT id, password_hash FROM users WHERE lower(email) = lower($1) AND suspended_at IS NULL AND NOT is_service

-- name: password_hash
SELECT password_hash FROM users WHERE id = $1

-- name: set_password
UPDATE users SET password_hash = $2 WHERE id = $1

-- name: read_person
-- Who signs his requests so, if he still may: his log-in has not ended, and nobody has suspended him.
SELECT u.id, u.name, u.email, u.is_operator, l.id AS login_id, l.organization_id
FROM users u JOIN logins l ON l.user_id = u.id
WHERE u.id = $1 AND l.id = $2 AND l.ended_at IS NULL AND l.expires_at > now() AND u.suspended_at IS NULL

-- name: memberships_of
SELECT m.organization_id, a.id AS account_id, m.role, o.name
FROM memberships m JOIN accounts a USING (organization_id) JOIN organizations o ON o.id = m.organization_id
WHERE m.user_id = $1 ORDER BY m.organization_id

-- name: begin_login
INSERT INTO logins (id, user_id, digest, expires_at) VALUES ($1, $2, $3, now() + make_interval(secs => $4))

-- name: renew_login
-- A renewal secret works once. No row: it was used, or the log-in has ended.
UPDATE logins l SET digest = $2, expires_at = now() + make_interval(secs => $3) FROM users u
WHERE l.digest = $1 AND l.ended_at IS NULL AND l.expires_at > now() AND u.id = l.user_id AND u.suspended_at IS NULL
RETURNING l.id, l.user_id

-- name: end_login
UPDATE logins SET ended_at = now() WHERE id = $1 AND ended_at IS NULL

-- name: end_other_logins
UPDATE logins SET ended_at = now() WHERE user_id = $1 AND id IS DISTINCT FROM $2 AND ended_at IS NULL

-- name: blocked_seconds
-- For how long nobody may try any of these.
SELECT COALESCE(max(extract(epoch FROM blocked_until - clock_timestamp())), 0)::float8
FROM failed_logins WHERE subject = ANY ($1::bytea[]) AND blocked_until > clock_timestamp()

-- name: note_failure
-- Each failure beyond `$2` in a row doubles the wait, up to `$3` seconds. What is a day old is forgotten.
INSERT INTO failed_logins AS f (subject, failures, blocked_until, failed_at)
VALUES ($1, 1, clock_timestamp(), clock_timestamp())
ON CONFLICT (subject) DO UPDATE SET
    failures = CASE WHEN f.failed_at < clock_timestamp() - interval '1 day' THEN 1 ELSE f.failures + 1 END,
    blocked_until = clock_timestamp() + make_interval(secs => CASE
        WHEN f.failed_at < clock_timestamp() - interval '1 day' OR f.failures < $2 THEN 0
        ELSE LEAST(2.0 ^ LEAST(f.failures - $2, 30), $3) END),
    failed_at = clock_timestamp()

-- name: forget_failures
DELETE FROM failed_logins WHERE subject = $1

-- name: tidy_logins
DELETE FROM logins WHERE expires_at < now() - interval '30 days'

-- name: tidy_failures
DELETE FROM failed_logins WHERE failed_at < now() - interval '1 day'
