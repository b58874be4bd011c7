-- Invitations: somebody may join an organization in a role, with a secret that works once and not for ever.
CREATE TABLE invitations (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    email text NOT NULL,
    role text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    accepted_at timestamptz,
    accepted_by uuid REFERENCES users (id),
    withdrawn_at timestamptz,
    CONSTRAINT invited_role_is_known CHECK (role IN ('owner', 'admin', 'billing', 'member', 'viewer')),
    CONSTRAINT invitation_digest_is_sha256 CHECK (length(digest) = 32),
    CONSTRAINT accepted_by_somebody CHECK ((accepted_at IS NULL) = (accepted_by IS NULL))
);
CREATE INDEX invitations_by_organization ON invitations (organization_id, id);
