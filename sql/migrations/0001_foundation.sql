-- People, keys and the words they are known by.

CREATE TABLE organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT organization_has_a_name CHECK (length(name) BETWEEN 1 AND 200)
);

-- The credit account of an organization. `credits_nanos` sums the entries that people make (grants, purchases, refunds,
-- adjustments, expiry), `balance_nanos` sums all entries; their difference is what usage has cost so far.
CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL UNIQUE REFERENCES organizations (id),
    credits_nanos bigint NOT NULL DEFAULT 0,
    balance_nanos bigint NOT NULL DEFAULT 0,
    overdraft_nanos bigint NOT NULL DEFAULT 0,
    last_entry_no bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT overdraft_not_negative CHECK (overdraft_nanos >= 0),
    CONSTRAINT usage_only_lowers_the_balance CHECK (balance_nanos <= credits_nanos)
) WITH (fillfactor = 70);

CREATE TABLE users (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    name text NOT NULL,
    email text,
    is_service boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_has_a_name CHECK (length(name) BETWEEN 1 AND 200)
);
CREATE UNIQUE INDEX user_email_is_unique ON users (lower(email)) WHERE email IS NOT NULL;
CREATE UNIQUE INDEX organization_has_one_service_user ON users (organization_id) WHERE is_service;

-- Secrets are stored as SHA-256 only. NULL in a policy column means "anything".
CREATE TABLE keys (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    user_id uuid NOT NULL REFERENCES users (id),
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    prefix text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    models text[],
    operations text[],
    networks cidr[],
    highest_request_nanos bigint,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT key_has_a_name CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT digest_is_sha256 CHECK (length(digest) = 32),
    CONSTRAINT highest_request_is_positive CHECK (highest_request_nanos > 0)
);
CREATE INDEX keys_by_account ON keys (account_id, id);

-- The fleet's change counter: every change of keys, policies, limits or prices takes its number here, inside its own
-- transaction, so that a reader who has seen number N has seen everything up to N.
CREATE TABLE change_counter (
    only_row boolean PRIMARY KEY DEFAULT true,
    version bigint NOT NULL DEFAULT 0,
    CONSTRAINT one_counter CHECK (only_row)
);
INSERT INTO change_counter DEFAULT VALUES;

CREATE TABLE changes (
    version bigint PRIMARY KEY,
    kind text NOT NULL,
    subject_id uuid,
    changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject_kind text NOT NULL,
    subject_id uuid,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_by_subject ON audit_log (subject_id, id);
