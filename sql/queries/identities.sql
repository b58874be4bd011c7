-- Identities: people whom another issuer introduces.

-- name: find_identity
-- Who somebody is here whom this issuer calls so.
SELECT u.id, u.name, u.email, u.is_operator, u.suspended_at
FROM identities i JOIN users u ON u.id = i.user_id WHERE i.issuer = $1 AND i.subject = $2

-- name: find_known
-- Who has an address that the issuer ($2) has verified, and whether it knows him as somebody else. Operators are never found
-- so: the word of another issuer makes none.
SELECT id, password_hash IS NOT NULL AS has_password, is_operator,
    EXISTS (SELECT FROM identities i WHERE i.user_id = users.id AND i.issuer = $2) AS is_another
FROM users WHERE is_address(email, $1) AND NOT is_service

-- name: add_identity
INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3)

-- name: is_address_invited
SELECT EXISTS (SELECT FROM invitations i WHERE is_address(email, $1)
    AND accepted_at IS NULL AND withdrawn_at IS NULL AND expires_at > now() AND may_invite(i))

-- name: remove_identity
DELETE FROM identities WHERE issuer = $1 AND subject = $2 AND user_id = $3 RETURNING user_id

-- name: identities_of
SELECT issuer, subject, created_at FROM identities WHERE user_id = $1 ORDER BY created_at, issuer, subject

-- name: forget_password
UPDATE users SET password_hash = NULL WHERE id = $1
