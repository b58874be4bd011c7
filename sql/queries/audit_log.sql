-- The audit log, for people.

-- name: list_audit_log
-- By its key, backwards, so that a page costs what it shows.
SELECT id, occurred_at, actor, action, subject_kind, subject_id, detail FROM audit_log
WHERE ($1::bigint IS NULL OR id < $1) AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
  AND ($4::uuid IS NULL OR subject_id = $4) AND ($5::timestamptz IS NULL OR occurred_at >= $5)
  AND ($6::timestamptz IS NULL OR occurred_at < $6)
ORDER BY id DESC LIMIT $7
