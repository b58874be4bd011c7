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
CREATE INDEX users_by_name ON users (lower(name), id);
