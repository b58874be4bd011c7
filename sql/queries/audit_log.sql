-- The audit log, for people.

-- name: list_audit_log
-- By its key, backwards, so that a page costs what it shows. Of a user his name is told, as it is now.
SELECT l.id, occurred_at, actor, u.name AS actor_name, action, subject_kind, subject_id, detail
FROM audit_log l LEFT JOIN users u ON u.id = CASE WHEN actor ~ '^user [0-9a-f-]{36}$' THEN substring(actor FROM 6)::uuid END
WHERE ($1::bigint IS NULL OR l.id < $1) AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
  AND ($4::uuid IS NULL OR subject_id = $4) AND ($5::timestamptz IS NULL OR occurred_at >= $5)
  AND ($6::timestamptz IS NULL OR occurred_at < $6)
ORDER BY l.id DESC LIMIT $7
