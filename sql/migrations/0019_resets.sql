-- A password that is set anew by whoever has a secret that an operator has made: once, and not for ever.
CREATE TABLE password_resets (
    digest bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CONSTRAINT reset_digest_is_sha256 CHECK (length(digest) = 32)
);
CREATE INDEX password_resets_by_user ON password_resets (user_id);

-- Who has invited: an invitation is worth what whoever made it may do. NULL: the operator, by his token.
ALTER TABLE invitations ADD COLUMN invited_by uuid REFERENCES users (id);
CREATE FUNCTION may_invite(p_invitation invitations) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT p_invitation.invited_by IS NULL OR EXISTS (
        SELECT FROM users u LEFT JOIN memberships m ON m.user_id = u.id AND m.organization_id = p_invitation.organization_id
        WHERE u.id = p_invitation.invited_by AND u.suspended_at IS NULL
          AND (u.is_operator OR m.role = 'owner' OR (m.role = 'admin' AND p_invitation.role <> 'owner')))
$$;

CREATE INDEX users_by_name ON users (lower(name), id);
