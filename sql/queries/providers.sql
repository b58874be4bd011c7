-- Providers that operators have added, and their keys.

-- name: add_provider
INSERT INTO providers (id, name, base_url, prices, models) VALUES ($1, $2, $3, $4, $5)
RETURNING id, name, base_url, prices, models, created_at

-- name: list_providers
SELECT id, name, base_url, prices, models, created_at FROM providers WHERE removed_at IS NULL ORDER BY id LIMIT $1

-- name: read_provider
SELECT id, name, base_url, prices, models, created_at FROM providers WHERE id = $1 AND removed_at IS NULL FOR UPDATE

-- name: change_provider
UPDATE providers SET base_url = $2, prices = $3, models = $4 WHERE id = $1
RETURNING id, name, base_url, prices, models, created_at

-- name: forget_keys
UPDATE provider_keys SET removed_at = now(), sealed = '\x' WHERE provider_id = $1 AND removed_at IS NULL RETURNING id

-- name: remove_provider
-- Its keys go with it: what sealed them is forgotten.
WITH gone AS (UPDATE provider_keys SET removed_at = now(), sealed = '\x' WHERE provider_id = $1 AND removed_at IS NULL)
UPDATE providers SET removed_at = now() WHERE id = $1 AND removed_at IS NULL RETURNING id

-- name: count_keys
SELECT count(*) FROM provider_keys WHERE provider_id = $1 AND removed_at IS NULL

-- name: add_key
INSERT INTO provider_keys (id, provider_id, name, last_four, sealed, master_key_id) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, provider_id, name, last_four, master_key_id, created_at, changed_at

-- name: list_keys
SELECT k.id, k.provider_id, k.name, k.last_four, k.master_key_id, k.created_at, k.changed_at
FROM provider_keys k WHERE k.removed_at IS NULL ORDER BY k.id LIMIT $1

-- name: lock_key
SELECT k.id, k.provider_id, p.base_url FROM provider_keys k JOIN providers p ON p.id = k.provider_id
WHERE k.id = $1 AND k.removed_at IS NULL FOR UPDATE OF k

-- name: change_key
UPDATE provider_keys SET last_four = $2, sealed = $3, master_key_id = $4, changed_at = now() WHERE id = $1
RETURNING id, provider_id, name, last_four, master_key_id, created_at, changed_at

-- name: remove_key
-- What was sealed is forgotten; that there was a key stays.
UPDATE provider_keys SET removed_at = now(), sealed = '\x' WHERE id = $1 AND removed_at IS NULL RETURNING provider_id

-- name: open_all
SELECT p.id, p.name, p.base_url, p.prices, p.models, k.id AS key_id, k.sealed, k.master_key_id
FROM providers p JOIN provider_keys k ON k.provider_id = p.id AND k.removed_at IS NULL
WHERE p.removed_at IS NULL ORDER BY p.id, k.id

-- name: sealed_under_others
SELECT id, sealed, master_key_id FROM provider_keys WHERE removed_at IS NULL AND master_key_id <> $1 FOR UPDATE
