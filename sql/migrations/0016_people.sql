-- People: they sign in, and belong to organizations in roles.

-- `organization_id` is where a user was made; what he may do where is said by his memberships. Without a password he
-- cannot sign in by one.
ALTER TABLE users
    ADD COLUMN password_hash text,
    ADD COLUMN is_operator boolean NOT NULL DEFAULT false,
    ADD COLUMN suspended_at timestamptz,
    ADD CONSTRAINT services_do_not_sign_in CHECK (NOT is_service OR password_hash IS NULL);

CREATE TABLE memberships (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    user_id uuid NOT NULL REFERENCES users (id),
    role text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id),
    CONSTRAINT role_is_known CHECK (role IN ('owner', 'admin', 'billing', 'member', 'viewer'))
);
CREATE INDEX memberships_by_user ON memberships (user_id);
INSERT INTO memberships (organization_id, user_id, role)
SELECT organization_id, id, 'member' FROM users WHERE NOT is_service;

-- One row for each time that somebody signed in. The secret that renews it is known by its SHA-256 only and is another
-- one after each use; `organization_id` is what he works in when he names none.
CREATE TABLE logins (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    digest bytea NOT NULL UNIQUE,
    organization_id uuid REFERENCES organizations (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT login_digest_is_sha256 CHECK (length(digest) = 32)
);
CREATE INDEX logins_by_user ON logins (user_id) WHERE ended_at IS NULL;
CREATE INDEX logins_by_expiry ON logins (expires_at);

-- How often signing in has failed for somebody or from somewhere, in a row. In the database, so that it holds for all
-- workers; subjects are hashed, because what people type as their e-mail may be their password.
CREATE TABLE failed_logins (
    subject bytea PRIMARY KEY,
    failures integer NOT NULL,
    blocked_until timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    CONSTRAINT failed_subject_is_sha256 CHECK (length(subject) = 32)
);
CREATE INDEX failed_logins_by_age ON failed_logins (failed_at);
