-- Members of organizations, and who is invited to become one.

-- name: list_organizations
SELECT o.id, o.name, a.id AS account_id, m.role, o.created_at
FROM memberships m JOIN organizations o ON o.id = m.organization_id JOIN accounts a ON a.organization_id = o.id
WHERE m.user_id = $1 AND ($2::uuid IS NULL OR o.id > $2) ORDER BY o.id LIMIT $3

-- name: list_members
SELECT u.id, u.name, u.email, m.role, u.suspended_at, m.created_at
FROM memberships m JOIN users u ON u.id = m.user_id
WHERE m.organization_id = $1 AND ($2::uuid IS NULL OR u.id > $2) ORDER BY u.id LIMIT $3

-- name: lock_members
-- Whoever changes members is alone with them, so that an organization never loses its last owner.
SELECT user_id, role FROM memberships WHERE organization_id = $1 ORDER BY user_id FOR UPDATE

-- name: change_role
UPDATE memberships SET role = $3 WHERE organization_id = $1 AND user_id = $2

-- name: remove_member
DELETE FROM memberships WHERE organization_id = $1 AND user_id = $2

-- name: revoke_keys_of_member
-- Who is no member any more has no keys there either.
UPDATE keys k SET revoked_at = now() FROM accounts a
WHERE a.organization_id = $1 AND k.account_id = a.id AND k.user_id = $2 AND k.revoked_at IS NULL
RETURNING k.id

-- name: read_member
SELECT u.id, u.name, u.email, m.role, u.suspended_at, m.created_at
FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.organization_id = $1 AND m.user_id = $2

-- name: invite
INSERT INTO invitations (id, organization_id, email, role, digest, expires_at, invited_by)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), $7)
RETURNING id, organization_id, email, role, created_at, expires_at, accepted_at, withdrawn_at

-- name: open_invitations
SELECT count(*) FROM invitations
WHERE organization_id = $1 AND accepted_at IS NULL AND withdrawn_at IS NULL AND expires_at > now()

-- name: list_invitations
SELECT id, organization_id, email, role, created_at, expires_at, accepted_at, withdrawn_at
FROM invitations WHERE organization_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3

-- name: withdraw_invitation
UPDATE invitations SET withdrawn_at = COALESCE(withdrawn_at, now())
WHERE id = $1 AND organization_id = $2 AND accepted_at IS NULL
RETURNING id, organization_id, email, role, created_at, expires_at, accepted_at, withdrawn_at

-- name: accept_invitation
-- Once, by whom it was for, while it is good and whoever made it may still invite so. No row: it is none.
UPDATE invitations i SET accepted_at = now(), accepted_by = u.id FROM users u
WHERE i.digest = $1 AND u.id = $2 AND is_address(u.email, i.email)
  AND i.accepted_at IS NULL AND i.withdrawn_at IS NULL AND i.expires_at > now() AND may_invite(i)
RETURNING i.organization_id, i.role

-- name: is_invited
SELECT EXISTS (SELECT FROM invitations i WHERE digest = $1 AND is_address(email, $2)
    AND accepted_at IS NULL AND withdrawn_at IS NULL AND expires_at > now() AND may_invite(i))

-- name: join
-- Who is a member already stays what he is.
INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
