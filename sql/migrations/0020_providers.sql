-- Providers that operators add beside the configured ones, and their keys, whose secrets are sealed under the master key.
CREATE TABLE providers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    base_url text NOT NULL,
    prices text NOT NULL,
    models text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,
    CONSTRAINT provider_has_a_name CHECK (length(name) BETWEEN 1 AND 100)
);
CREATE UNIQUE INDEX provider_name_is_unique ON providers (name) WHERE removed_at IS NULL;

-- `last_four` is all of a secret that anybody is ever shown; `master_key_id` names the master key that opens the rest.
CREATE TABLE provider_keys (
    id uuid PRIMARY KEY,
    provider_id uuid NOT NULL REFERENCES providers (id),
    name text NOT NULL DEFAULT '',
    last_four text NOT NULL,
    sealed bytea NOT NULL,
    master_key_id bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz
);
CREATE INDEX provider_keys_by_provider ON provider_keys (provider_id, id) WHERE removed_at IS NULL;
