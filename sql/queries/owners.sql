-- Owners: whose a resource is, and who has heard of its end.

-- name: book_owners
-- Part of a settle's transaction. Rows come merged and in one order, so that no two workers wait for each other. The
-- first claim stands, and what was forgotten stays forgotten, in whatever order and however often it is told.
INSERT INTO owners AS o (account_id, kind, id, provider, created_at, forgotten_at)
SELECT account_id, kind, id, provider, created_at, CASE WHEN is_forgotten THEN clock_timestamp() END
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::boolean[])
    AS told (account_id, kind, id, provider, created_at, is_forgotten)
ON CONFLICT (account_id, kind, id) DO UPDATE SET forgotten_at = excluded.forgotten_at
WHERE excluded.forgotten_at IS NOT NULL AND o.forgotten_at IS NULL

-- name: find_owners
-- Which of these resources their accounts own. A worker that is alone need not wait for what others may settle; that is
-- told by the same snapshot, in a row without a resource.
SELECT o.account_id, o.kind, o.id, o.provider
FROM unnest($2::uuid[], $3::text[], $4::text[]) AS asked (account_id, kind, id)
JOIN owners o USING (account_id, kind, id) WHERE o.forgotten_at IS NULL
UNION ALL
SELECT NULL, NULL, NULL, NULL
WHERE EXISTS (SELECT FROM worker_sessions s WHERE s.id <> $1 AND s.state IN ('live', 'lost'))

-- name: forgotten_owners
-- What was forgotten a moment ago; asked again and again, so that a transaction that took its time is seen as well.
SELECT account_id, kind, id FROM owners WHERE forgotten_at > now() - make_interval(secs => $1)
