-- An amount as decimal text in USD with two to nine decimals, as the API writes it (meterproxy/core/money.py,
-- `format_usd`).
CREATE OR REPLACE FUNCTION usd(p_nanos bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_nanos < 0 THEN '-' ELSE '' END || abs(p_nanos / 1000000000)::text || '.'
        || lpad(abs(p_nanos / 10000000 % 100)::text, 2, '0')
        || rtrim(lpad(abs(p_nanos % 10000000)::text, 7, '0'), '0')
$$;
