-- Providers that operators have added, and their keys.

-- name: add_provider
INSERT INTO providers (
    id, name, base_url, prices, models, tls_ca, connect_seconds, first_byte_seconds, between_bytes_seconds
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: list_providers
-- All of them, or the one of this id.
SELECT p.id, p.name, p.base_url, p.prices, p.models, p.tls_ca, p.connect_seconds, p.first_byte_seconds,
    p.between_bytes_seconds, p.created_at,
    ARRAY(SELECT h.name FROM provider_headers h WHERE h.provider_id = p.id ORDER BY lower(h.name)) AS header_names
FROM providers p WHERE p.removed_at IS NULL AND ($2::uuid IS NULL OR p.id = $2) ORDER BY p.id LIMIT $1

-- name: lock_provider
SELECT id FROM providers WHERE id = $1 AND removed_at IS NULL FOR UPDATE

-- name: change_provider
UPDATE providers SET base_url = $2, prices = $3, models = $4, tls_ca = $5, connect_seconds = $6,
    first_byte_seconds = $7, between_bytes_seconds = $8
WHERE id = $1

-- name: add_header
INSERT INTO provider_headers (id, provider_id, name, sealed, master_key_id) VALUES ($1, $2, $3, $4, $5)

-- name: forget_headers
-- Those of these names in lower case, or all of them.
DELETE FROM provider_headers WHERE provider_id = $1 AND ($2::text[] IS NULL OR lower(name) = ANY($2)) RETURNING name

-- name: open_headers
SELECT h.id, h.provider_id, h.name, h.sealed, h.master_key_id, p.base_url
FROM provider_headers h JOIN providers p ON p.id = h.provider_id
WHERE p.removed_at IS NULL AND ($1::uuid IS NULL OR p.id = $1) ORDER BY h.provider_id, lower(h.name)

-- name: forget_keys
-- Locked by their ids first, as by whoever seals them anew.
WITH held AS (
    SELECT id FROM provider_keys WHERE provider_id = $1 AND removed_at IS NULL ORDER BY id FOR UPDATE
)
UPDATE provider_keys k SET removed_at = now(), sealed = '\x' FROM held WHERE k.id = held.id RETURNING k.id

-- name: remove_provider
-- Its keys have gone before.
UPDATE providers SET removed_at = now() WHERE id = $1 AND removed_at IS NULL

-- name: count_keys
SELECT count(*) FROM provider_keys WHERE provider_id = $1 AND removed_at IS NULL

-- name: add_key
INSERT INTO provider_keys (id, provider_id, name, last_four, sealed, master_key_id) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, provider_id, name, last_four, created_at, changed_at

-- name: list_keys
SELECT k.id, k.provider_id, k.name, k.last_four, k.sealed, k.master_key_id, k.created_at, k.changed_at, p.base_url
FROM provider_keys k JOIN providers p ON p.id = k.provider_id
WHERE k.removed_at IS NULL ORDER BY k.id LIMIT $1

-- name: lock_key
SELECT k.id, k.provider_id, p.base_url FROM provider_keys k JOIN providers p ON p.id = k.provider_id
WHERE k.id = $1 AND k.removed_at IS NULL FOR UPDATE OF k

-- name: change_key
UPDATE provider_keys SET last_four = $2, sealed = $3, master_key_id = $4, changed_at = now() WHERE id = $1
RETURNING id, provider_id, name, last_four, created_at, changed_at

-- name: remove_key
-- What was sealed is forgotten; that there was a key stays.
UPDATE provider_keys SET removed_at = now(), sealed = '\x' WHERE id = $1 AND removed_at IS NULL RETURNING provider_id

-- name: open_keys
SELECT k.id, k.provider_id, k.sealed, k.master_key_id, p.base_url
FROM provider_keys k JOIN providers p ON p.id = k.provider_id
WHERE k.removed_at IS NULL AND p.removed_at IS NULL ORDER BY k.id

-- name: keys_under_others
SELECT k.id, k.sealed, k.master_key_id, p.base_url FROM provider_keys k JOIN providers p ON p.id = k.provider_id
WHERE k.removed_at IS NULL AND k.master_key_id <> $1
ORDER BY k.id FOR UPDATE OF k

-- name: reseal_key
UPDATE provider_keys SET sealed = $2, master_key_id = $3 WHERE id = $1

-- name: headers_under_others
SELECT h.id, h.sealed, h.master_key_id, p.base_url FROM provider_headers h JOIN providers p ON p.id = h.provider_id
WHERE h.master_key_id <> $1
ORDER BY h.id FOR UPDATE OF h

-- name: reseal_header
UPDATE provider_headers SET sealed = $2, master_key_id = $3 WHERE id = $1
