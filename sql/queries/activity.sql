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
-- A page as lines of a CSV file, made where the rows are; with the place of its last row.
SELECT string_agg(concat_ws(',',
        to_char(u.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), u.id, u.user_id, csv_cell(p.name),
        u.key_id, csv_cell(k.name), csv_cell(u.operation), csv_cell(u.provider), csv_cell(u.model),
        csv_cell(u.served_model), u.is_stream, csv_cell(u.outcome), u.status, csv_cell(u.usage_source),
        tokens_in(u.input_tokens, u.cache_write_tokens, u.other_usage),
        tokens_cached(u.cache_read_tokens, u.other_usage),
        tokens_out(u.output_tokens, u.reasoning_tokens, u.other_usage), u.reasoning_tokens,
        csv_cell(u.conversation), csv_cell(u.tags::text), csv_cell(array_to_string(u.tools, ' ')),
        usd(u.amount_nanos), u.latency_us / 1000) || E'\r\n', '' ORDER BY u.occurred_at DESC, u.id DESC) AS text,
    count(*) AS rows, (array_agg(u.occurred_at ORDER BY u.occurred_at, u.id))[1] AS last_at,
    (array_agg(u.id ORDER BY u.occurred_at, u.id))[1] AS last_id
FROM activity($1, GREATEST($2, retained_from()), $3, $4, $5, $6, wanted_keys($1, $7, $8, $9), $10, $11, $12, $13, $14, $15,
    $16, $17, $18) u
LEFT JOIN keys k ON k.id = u.key_id LEFT JOIN users p ON p.id = u.user_id

-- name: export_json
-- The same as JSON objects with commas between.
SELECT string_agg(jsonb_build_object(
        'id', u.id, 'occurred_at', to_char(u.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'user_id', u.user_id, 'user_name', p.name, 'key_id', u.key_id, 'key_name', k.name, 'operation', u.operation,
        'provider', u.provider, 'model', u.model, 'served_model', u.served_model, 'stream', u.is_stream,
        'outcome', u.outcome, 'status', u.status, 'usage_source', u.usage_source,
        'input_tokens', tokens_in(u.input_tokens, u.cache_write_tokens, u.other_usage),
        'cached_tokens', tokens_cached(u.cache_read_tokens, u.other_usage),
        'output_tokens', tokens_out(u.output_tokens, u.reasoning_tokens, u.other_usage),
        'reasoning_tokens', u.reasoning_tokens, 'conversation', u.conversation, 'tags', u.tags, 'tools', u.tools,
        'amount', usd(u.amount_nanos), 'amount_nanos', u.amount_nanos, 'latency_ms', u.latency_us / 1000)::text,
        E',\n' ORDER BY u.occurred_at DESC, u.id DESC) AS text,
    count(*) AS rows, (array_agg(u.occurred_at ORDER BY u.occurred_at, u.id))[1] AS last_at,
    (array_agg(u.id ORDER BY u.occurred_at, u.id))[1] AS last_id
FROM activity($1, GREATEST($2, retained_from()), $3, $4, $5, $6, wanted_keys($1, $7, $8, $9), $10, $11, $12, $13, $14, $15,
    $16, $17, $18) u
LEFT JOIN keys k ON k.id = u.key_id LEFT JOIN users p ON p.id = u.user_id
