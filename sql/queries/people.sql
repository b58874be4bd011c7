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
SELECT id, password_hash, email FROM users WHERE is_address(email, $1) AND suspended_at IS NULL AND NOT is_service

-- name: lock_by_email
-- Who signs in by this address and a password, until the transaction ends.
SELECT id, email FROM users
WHERE is_address(email, $1) AND password_hash IS NOT NULL AND suspended_at IS NULL AND NOT is_service FOR NO KEY UPDATE

-- name: password_hash
SELECT password_hash FROM users WHERE id = $1

-- name: set_password
UPDATE users SET password_hash = $2 WHERE id = $1 RETURNING COALESCE(email, '')

-- name: change_password
-- No row: it is another one by now than the one that was checked.
UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2
RETURNING COALESCE(email, '')

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
-- No row: the password that was checked is not his any more, or he is suspended. Whoever changes either waits for this.
INSERT INTO logins (id, user_id, digest, expires_at)
SELECT $1, u.id, $3, now() + make_interval(secs => $4) FROM users u
WHERE u.id = $2 AND u.password_hash = $5 AND u.suspended_at IS NULL FOR SHARE
RETURNING id

-- name: begin_login_of
-- The same where somebody else vouches for him. No row: he is suspended.
INSERT INTO logins (id, user_id, digest, expires_at)
SELECT $1, u.id, $3, now() + make_interval(secs => $4) FROM users u WHERE u.id = $2 AND u.suspended_at IS NULL FOR SHARE
RETURNING id

-- name: renew_login
-- A renewal secret works once. No row: it was used, or the log-in has ended.
UPDATE logins l SET digest = $2, expires_at = now() + make_interval(secs => $3) FROM users u
WHERE l.digest = $1 AND l.ended_at IS NULL AND l.expires_at > now() AND u.id = l.user_id AND u.suspended_at IS NULL
RETURNING l.id, l.user_id

-- name: end_login
UPDATE logins SET ended_at = now() WHERE id = $1 AND ended_at IS NULL

-- name: end_login_unless_renewed
UPDATE logins SET ended_at = now()
WHERE id = $1 AND ended_at IS NULL AND expires_at < now() + make_interval(secs => $2)

-- name: end_other_logins
UPDATE logins SET ended_at = now() WHERE user_id = $1 AND id IS DISTINCT FROM $2 AND ended_at IS NULL

-- name: blocked_seconds
-- For how long nobody may try any of these.
SELECT COALESCE(max(extract(epoch FROM blocked_until - clock_timestamp())), 0)::float8
FROM failed_logins WHERE subject = ANY ($1::bytea[]) AND blocked_until > clock_timestamp()

-- name: begin_attempt
-- Each attempt counts as failed until it is known not to be, so that of many at once no more are looked at than one by
-- one. Each failure beyond `$2` in a row doubles the wait, up to `$3` seconds. What is a day old is forgotten. No row:
-- somebody must wait.
INSERT INTO failed_logins AS f (subject, failures, blocked_until, failed_at)
VALUES ($1, 1, clock_timestamp(), clock_timestamp())
ON CONFLICT (subject) DO UPDATE SET
    failures = CASE WHEN f.failed_at < clock_timestamp() - interval '1 day' THEN 1 ELSE f.failures + 1 END,
    blocked_until = clock_timestamp() + make_interval(secs => CASE
        WHEN f.failed_at < clock_timestamp() - interval '1 day' OR f.failures < $2 THEN 0
        ELSE LEAST(2.0 ^ LEAST(f.failures - $2, 30), $3) END),
    failed_at = clock_timestamp()
WHERE f.blocked_until <= clock_timestamp()
RETURNING failures

-- name: undo_attempt
-- It did not fail: everything is as before.
UPDATE failed_logins SET failures = failures - 1, blocked_until = LEAST(blocked_until, clock_timestamp())
WHERE subject = $1 AND failures > 0

-- name: forget_failures
DELETE FROM failed_logins WHERE subject = $1

-- name: tidy_logins
DELETE FROM logins WHERE expires_at < now() - interval '30 days'

-- name: tidy_failures
DELETE FROM failed_logins WHERE failed_at < now() - interval '1 day'

-- name: set_organization
-- What somebody works in from now on, under this log-in. No row: there is no such organization.
UPDATE logins l SET organization_id = o.id FROM organizations o WHERE l.id = $1 AND o.id = $2 RETURNING o.id

-- name: list_users
-- People, not services; by a part of their name or e-mail.
SELECT id, organization_id, name, email, is_operator, suspended_at, password_hash IS NOT NULL AS has_password, created_at
FROM users
WHERE NOT is_service AND ($1::text IS NULL OR strpos(lower(name), lower($1)) > 0 OR strpos(lower(email), lower($1)) > 0)
  AND ($2::uuid IS NULL OR id > $2)
ORDER BY id LIMIT $3

-- name: read_user
SELECT id, organization_id, name, email, is_operator, suspended_at, password_hash IS NOT NULL AS has_password, created_at
FROM users WHERE id = $1 AND NOT is_service

-- name: suspend
-- Suspending twice keeps the first instant.
UPDATE users SET suspended_at = CASE WHEN $2 THEN COALESCE(suspended_at, now()) END WHERE id = $1 AND NOT is_service
RETURNING id, organization_id, name, email, is_operator, suspended_at, password_hash IS NOT NULL AS has_password, created_at

-- name: live_keys
SELECT id FROM keys WHERE user_id = $1 AND revoked_at IS NULL

-- name: add_reset
INSERT INTO password_resets (digest, user_id, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))

-- name: open_resets
SELECT count(*) FROM password_resets WHERE user_id = $1 AND used_at IS NULL AND expires_at > now()

-- name: use_reset
-- No row: it is none, or was used. A new password ends all that were made before. Whose it is is locked first, as by
-- whatever else sets a password: two secrets of one person that are used at once come one after the other.
WITH whose AS (
    SELECT u.id FROM users u JOIN password_resets r ON r.user_id = u.id
    WHERE r.digest = $1 AND u.suspended_at IS NULL FOR NO KEY UPDATE OF u
)
UPDATE password_resets r SET used_at = now() FROM whose
WHERE r.digest = $1 AND r.user_id = whose.id AND r.used_at IS NULL AND r.expires_at > now()
RETURNING r.user_id

-- name: end_reset
UPDATE password_resets SET used_at = now() WHERE digest = $1 AND used_at IS NULL

-- name: end_resets
UPDATE password_resets SET used_at = now() WHERE user_id = $1 AND used_at IS NULL

-- name: tidy_resets
DELETE FROM password_resets WHERE expires_at < now() - interval '30 days'
