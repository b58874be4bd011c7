-- Rollups count the tokens of every kind, and a row says what it drew from which limits.

-- Tokens that went in and were not read from a cache: text, audio, pictures, and what was written to a cache.
CREATE FUNCTION tokens_in(p_input bigint, p_cache_write bigint, p_other jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_input + p_cache_write + CASE WHEN p_other IS NULL THEN 0 ELSE
        COALESCE((p_other ->> 'cache_write_1h')::bigint, 0) + COALESCE((p_other ->> 'input_audio')::bigint, 0)
        + COALESCE((p_other ->> 'input_image')::bigint, 0) END
$$;

-- Tokens that were read from a cache.
CREATE FUNCTION tokens_cached(p_cache_read bigint, p_other jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_cache_read + CASE WHEN p_other IS NULL THEN 0 ELSE
        COALESCE((p_other ->> 'cache_read_audio')::bigint, 0) + COALESCE((p_other ->> 'cache_read_image')::bigint, 0) END
$$;

-- Tokens that came out, hidden reasoning included.
CREATE FUNCTION tokens_out(p_output bigint, p_reasoning bigint, p_other jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_output + p_reasoning + CASE WHEN p_other IS NULL THEN 0 ELSE
        COALESCE((p_other ->> 'output_audio')::bigint, 0) + COALESCE((p_other ->> 'output_image')::bigint, 0) END
$$;

UPDATE usage_by_hour r SET input_tokens = e.input, cached_tokens = e.cached, output_tokens = e.output
FROM (
    SELECT account_id, date_trunc('hour', occurred_at, 'UTC') AS hour, key_id, user_id, provider, model, operation,
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)) AS input,
        sum(tokens_cached(cache_read_tokens, other_usage)) AS cached,
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)) AS output
    FROM usage_events GROUP BY 1, 2, 3, 4, 5, 6, 7) e
WHERE (r.account_id, r.hour, r.key_id, r.user_id, r.provider, r.model, r.operation)
    = (e.account_id, e.hour, e.key_id, e.user_id, e.provider, e.model, e.operation);

UPDATE usage_by_day r SET input_tokens = e.input, cached_tokens = e.cached, output_tokens = e.output
FROM (
    SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date AS day, key_id, user_id, provider, model, operation,
        sum(tokens_in(input_tokens, cache_write_tokens, other_usage)) AS input,
        sum(tokens_cached(cache_read_tokens, other_usage)) AS cached,
        sum(tokens_out(output_tokens, reasoning_tokens, other_usage)) AS output
    FROM usage_events GROUP BY 1, 2, 3, 4, 5, 6, 7) e
WHERE (r.account_id, r.day, r.key_id, r.user_id, r.provider, r.model, r.operation)
    = (e.account_id, e.day, e.key_id, e.user_id, e.provider, e.model, e.operation);

-- What an exchange drew from each limit on its path: [limit, window's start, session, held, consumed, overrun] each.
-- NULL: from the account's credit only, which the row's own columns say.
ALTER TABLE usage_events ADD COLUMN draws jsonb;
ALTER TABLE usage_staging ADD COLUMN draws jsonb;
