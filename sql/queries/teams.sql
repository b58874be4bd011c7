-- Teams: users' keys that share limits.

-- name: create_team
INSERT INTO teams (id, organization_id, name) SELECT $1, a.organization_id, $3 FROM accounts a WHERE a.id = $2
RETURNING id, organization_id, name, created_at

-- name: list_teams
SELECT t.id, t.organization_id, t.name, t.created_at
FROM teams t JOIN accounts a USING (organization_id)
WHERE t.removed_at IS NULL AND ($1::uuid IS NULL OR a.id = $1) AND ($2::uuid IS NULL OR t.id > $2) ORDER BY t.id LIMIT $3

-- name: lock_team
-- In one account's organization, or in any.
SELECT t.id, t.name, a.id AS account_id FROM teams t JOIN accounts a USING (organization_id)
WHERE t.id = $1 AND ($2::uuid IS NULL OR a.id = $2) AND t.removed_at IS NULL FOR UPDATE OF t

-- name: rename_team
UPDATE teams SET name = $2 WHERE id = $1 RETURNING id, organization_id, name, created_at

-- name: remove_team
UPDATE teams SET removed_at = now() WHERE id = $1

-- name: limits_of_team
SELECT id FROM limits WHERE account_id = $1 AND scope = 'team' AND scope_id = $2 AND retired_at IS NULL ORDER BY id

-- name: hold_team
-- Whoever removes a team ends the limits that go with it: he waits for what is in the making for it, or that for him.
SELECT 1 FROM teams t JOIN accounts a USING (organization_id)
WHERE t.id = $1 AND a.id = $2 AND t.removed_at IS NULL FOR KEY SHARE OF t
