-- Stored providers have what configured ones have: headers, authorities of their own, patience. The defaults are those of
-- the configuration (meterproxy/core/provider.py): a release that knows nothing of these columns adds providers by them.
ALTER TABLE providers
    ADD COLUMN tls_ca text,
    ADD COLUMN connect_seconds double precision NOT NULL DEFAULT 5,
    ADD COLUMN first_byte_seconds double precision NOT NULL DEFAULT 600,
    ADD COLUMN between_bytes_seconds double precision NOT NULL DEFAULT 300,
    ADD CONSTRAINT patience_is_above_zero
        CHECK (connect_seconds > 0 AND first_byte_seconds > 0 AND between_bytes_seconds > 0);

-- What is sent with every request to a provider. A value may be a secret: it is sealed under the master key that
-- `master_key_id` names, bound to its row and to the server that it is for, and shown to nobody.
CREATE TABLE provider_headers (
    id uuid PRIMARY KEY,
    provider_id uuid NOT NULL REFERENCES providers (id),
    name text NOT NULL,
    sealed bytea NOT NULL,
    master_key_id bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT header_has_a_name CHECK (length(name) BETWEEN 1 AND 100)
);
CREATE UNIQUE INDEX provider_header_is_there_once ON provider_headers (provider_id, lower(name));
