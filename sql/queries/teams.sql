-- Teams: users' keys that share limits.

-- name: create_team
INSERT INTO teams (id, organization_id, name) SELECT $1, a.organization_id, $3 FROM accounts a WHERE a.id = $2
RETURNING id, organization_id, name, created_at

-- name: list_teams
SELECT t.id, t.organization_id, t.name, t.created_at
FROM teams t JOIN accounts a USING (organization_id)
WHERE ($1::uuid IS NULL OR a.id = $1) AND ($2::uuid IS NULL OR t.id > $2) ORDER BY t.id LIMIT $3

-- name: team_belongs
SELECT EXISTS (SELECT FROM teams t JOIN accounts a USING (organization_id) WHERE t.id = $1 AND a.id = $2)
