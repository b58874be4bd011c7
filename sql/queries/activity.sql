-- Activity: the usage rows of an account, page by page. What may be filtered by is said by the function `activity`;
-- nothing is looked for in months that were dropped.

-- name: list
-- Names are today's; a key or user is never deleted.
SELECT u.id, u.occurred_at, u.user_id, p.name AS user_name, u.key_id, k.name AS key_name, u.operation, u.provider, u.model,
    u.served_model, u.is_stream, u.outcome, u.status, u.usage_source,
    tokens_in(u.input_tokens, u.cache_write_tokens, u.other_usage) AS input_tokens,
    tokens_cached(u.cache_read_tokens, u.other_usage) AS cached_tokens,
    tokens_out(u.output_tokens, u.reasoning_tokens, u.other_usage) AS output_tokens,
    u.reasoning_tokens, u.conversation, u.tags, u.tools, u.amount_nanos, u.latency_us, u.first_byte_us
FROM activity($1, GREATEST($2, retained_from()), $3, $4, $5, $6, wanted_keys($1, $7, $8, $9), $10, $11, $12, $13, $14, $15,
    $16, $17, $18) u
LEFT JOIN keys k ON k.id = u.key_id LEFT JOIN users p ON p.id = u.user_id
ORDER BY u.occurred_at DESC, u.id DESC

-- name: export_csv
-- A page as lines of a CSV file, made where the rows are; with the place of its last row. OFFSET 0: whether a line is plain
-- is looked at once. Tags are JSON, which is always in quotes and never a formula.
SELECT string_agg(concat_ws(',',
        to_char(l.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), l.id, l.user_id,
        csv_cell(l.user_name, l.is_plain), l.key_id, csv_cell(l.key_name, l.is_plain), l.operation,
        csv_cell(l.provider, l.is_plain), csv_cell(l.model, l.is_plain), csv_cell(l.served_model, l.is_plain),
        l.is_stream, l.outcome, l.status, l.usage_source,
        tokens_in(l.input_tokens, l.cache_write_tokens, l.other_usage),
        tokens_cached(l.cache_read_tokens, l.other_usage),
        tokens_out(l.output_tokens, l.reasoning_tokens, l.other_usage), l.reasoning_tokens,
        csv_cell(l.conversation, l.is_plain),
        CASE WHEN l.tags IS NULL THEN '' ELSE '"' || replace(l.tags::text, '"', '""') || '"' END,
        csv_cell(l.tools_used, l.is_plain), usd(l.amount_nanos), l.latency_us / 1000) || E'\r\n',
        '' ORDER BY l.occurred_at DESC, l.id DESC) AS text,
    count(*) AS rows, min(l.occurred_at) AS last_at,
    (array_agg(l.id ORDER BY l.occurred_at DESC, l.id DESC))[count(*)] AS last_id
FROM (
    SELECT u.*, p.name AS user_name, k.name AS key_name, array_to_string(u.tools, ' ') AS tools_used,
        csv_are_plain(concat_ws(E'\x01', '', p.name, k.name, u.provider, u.model, u.served_model, u.conversation,
            array_to_string(u.tools, ' '))) AS is_plain
    FROM activity($1, GREATEST($2, retained_from()), $3, $4, $5, $6, wanted_keys($1, $7, $8, $9), $10, $11, $12, $13, $14,
        $15, $16, $17, $18) u
    LEFT JOIN keys k ON k.id = u.key_id LEFT JOIN users p ON p.id = u.user_id
    OFFSET 0) l

-- name: export_json
-- The same as JSON objects with commas between.
SELECT string_agg(row_to_json(o)::text, E',\n' ORDER BY u.occurred_at DESC, u.id DESC) AS text,
    count(*) AS rows, min(u.occurred_at) AS last_at,
    (array_agg(u.id ORDER BY u.occurred_at DESC, u.id DESC))[count(*)] AS last_id
FROM activity($1, GREATEST($2, retained_from()), $3, $4, $5, $6, wanted_keys($1, $7, $8, $9), $10, $11, $12, $13, $14, $15,
    $16, $17, $18) u
LEFT JOIN keys k ON k.id = u.key_id LEFT JOIN users p ON p.id = u.user_id
CROSS JOIN LATERAL (
    SELECT u.id, to_char(u.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS occurred_at, u.user_id,
        p.name AS user_name, u.key_id, k.name AS key_name, u.operation, u.provider, u.model, u.served_model,
        u.is_stream AS stream, u.outcome, u.status, u.usage_source,
        tokens_in(u.input_tokens, u.cache_write_tokens, u.other_usage) AS input_tokens,
        tokens_cached(u.cache_read_tokens, u.other_usage) AS cached_tokens,
        tokens_out(u.output_tokens, u.reasoning_tokens, u.other_usage) AS output_tokens,
        u.reasoning_tokens, u.conversation, u.tags, u.tools, usd(u.amount_nanos) AS amount, u.amount_nanos,
        u.latency_us / 1000 AS latency_ms) o
