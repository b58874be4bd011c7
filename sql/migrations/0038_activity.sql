-- Activity by everything that reports group by, by teams, tags and tools, too; and its files in half the time. The
-- `activity` of migration 18 goes on for the release before this one.

-- Whether a usage row is what is looked for; NULL asks for anything. PostgreSQL takes it apart where it is used.
CREATE FUNCTION activity_fits(
    u usage_events, p_user uuid, p_keys uuid[], p_model text, p_provider text, p_operation text, p_completed boolean,
    p_status smallint, p_tag text, p_value text, p_tool text)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (p_user IS NULL OR u.user_id = p_user) AND (p_keys IS NULL OR u.key_id = ANY (p_keys))
        AND (p_model IS NULL OR u.model = p_model) AND (p_provider IS NULL OR u.provider = p_provider)
        AND (p_operation IS NULL OR u.operation = p_operation)
        AND (p_completed IS NULL OR (u.outcome = 'completed') = p_completed)
        AND (p_status IS NULL OR u.status = p_status)
        AND (p_tag IS NULL OR CASE WHEN p_value IS NULL THEN u.tags ? p_tag ELSE u.tags ->> p_tag = p_value END)
        AND (p_tool IS NULL OR p_tool = ANY (u.tools))
$$;

-- One page of an account's usage rows, the latest first, below (p_before, p_before_id). NULL asks for anything.
-- Rollups know in which hours there is anything to find, and on which days there is of a tag or a tool, so that no filter
-- has to walk over what it leaves out. Where there is, it is looked for in the latest hour first, then in four times as
-- many before, and so on: what nearly all rows fit is found at once, and what few do in a handful of steps.
CREATE FUNCTION activity(
    p_account uuid, p_from timestamptz, p_before timestamptz, p_before_id uuid, p_rows bigint, p_user uuid, p_keys uuid[],
    p_model text, p_provider text, p_operation text, p_completed boolean, p_status smallint, p_conversation text,
    p_tag text, p_value text, p_tool text)
RETURNS SETOF usage_events LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    -- Whoever answers with an error has not completed anything.
    completed boolean := CASE WHEN p_status >= 400 THEN COALESCE(p_completed, false) ELSE p_completed END;
    latest timestamptz;
    width interval := interval '1 hour';
    lacking bigint := p_rows;
    found_rows bigint;
BEGIN
    IF p_conversation IS NOT NULL THEN
        RETURN QUERY SELECT * FROM usage_events u
        WHERE u.account_id = p_account AND u.conversation = p_conversation AND u.occurred_at >= p_from
          AND (u.occurred_at, u.id) < (p_before, p_before_id)
          AND activity_fits(u, p_user, p_keys, p_model, p_provider, p_operation, p_completed, p_status, p_tag, p_value, p_tool)
        ORDER BY u.occurred_at DESC, u.id DESC LIMIT p_rows;
        RETURN;
    ELSIF p_user IS NULL AND p_keys IS NULL AND p_completed IS NULL AND p_status IS NULL
            AND COALESCE(p_model, p_provider, p_operation, p_tag, p_tool) IS NULL THEN
        RETURN QUERY SELECT * FROM usage_events u
        WHERE u.account_id = p_account AND u.occurred_at >= p_from AND (u.occurred_at, u.id) < (p_before, p_before_id)
        ORDER BY u.occurred_at DESC, u.id DESC LIMIT p_rows;
        RETURN;
    END IF;
    SELECT LEAST(date_trunc('hour', p_before, 'UTC'), max(r.hour)) INTO latest
    FROM usage_by_hour r WHERE r.account_id = p_account;
    WHILE lacking > 0 AND latest >= date_trunc('hour', p_from, 'UTC') LOOP
        RETURN QUERY SELECT u.* FROM (
            SELECT DISTINCT r.hour FROM usage_by_hour r
            WHERE r.account_id = p_account AND r.hour >= date_trunc('hour', p_from, 'UTC')
              AND r.hour > latest - width AND r.hour <= latest
              AND (p_user IS NULL OR r.user_id = p_user) AND (p_keys IS NULL OR r.key_id = ANY (p_keys))
              AND (p_model IS NULL OR r.model = p_model) AND (p_provider IS NULL OR r.provider = p_provider)
              AND (p_operation IS NULL OR r.operation = p_operation)
              AND (completed IS NULL OR CASE WHEN completed THEN r.requests > r.failures ELSE r.failures > 0 END)
              AND (p_tag IS NULL OR (r.hour AT TIME ZONE 'UTC')::date IN (
                  SELECT d.day FROM tags_by_day d WHERE d.account_id = p_account AND d.tag = p_tag
                    AND (p_value IS NULL OR d.value IN (p_value, '(other)'))
                    AND d.day BETWEEN ((latest - width) AT TIME ZONE 'UTC')::date AND (latest AT TIME ZONE 'UTC')::date))
              AND (p_tool IS NULL OR (r.hour AT TIME ZONE 'UTC')::date IN (
                  SELECT d.day FROM tools_by_day d WHERE d.account_id = p_account AND d.tool = p_tool
                    AND d.day BETWEEN ((latest - width) AT TIME ZONE 'UTC')::date AND (latest AT TIME ZONE 'UTC')::date))
        ) h CROSS JOIN LATERAL (
            SELECT * FROM usage_events e
            WHERE e.account_id = p_account AND e.occurred_at >= GREATEST(h.hour, p_from)
              AND e.occurred_at < h.hour + interval '1 hour' AND (e.occurred_at, e.id) < (p_before, p_before_id)
              AND e.occurred_at > latest - width AND e.occurred_at < latest + interval '1 hour'
              AND activity_fits(e, p_user, p_keys, p_model, p_provider, p_operation, p_completed, p_status, p_tag, p_value,
                  p_tool)
            ORDER BY e.occurred_at DESC, e.id DESC LIMIT lacking
        ) u ORDER BY u.occurred_at DESC, u.id DESC LIMIT lacking;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        lacking := lacking - found_rows;
        latest := latest - width;
        width := width * 4;
    END LOOP;
END $$;

-- The keys whose rows are looked for: one, those that are in a team today (or were when it was removed; NULL asks for those
-- of none), or both. NULL where any will do.
CREATE FUNCTION wanted_keys(p_account uuid, p_key uuid, p_by_team boolean, p_team uuid) RETURNS uuid[]
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN p_by_team THEN (
            SELECT COALESCE(array_agg(k.id), '{}') FROM keys k
            WHERE k.account_id = p_account AND k.team_id IS NOT DISTINCT FROM p_team AND (p_key IS NULL OR k.id = p_key))
        WHEN p_key IS NOT NULL THEN ARRAY[p_key] END
$$;

-- One cell of a CSV file, as in migration 18: with all that are blanks before a sign, as control/spreadsheet.py has it.
CREATE OR REPLACE FUNCTION csv_cell(p_text text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN p_text IS NULL THEN ''
        WHEN p_text ~ '^([\s\u001c-\u001f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*[-=+@＝＋－＠]|[\t\r\n])'
            THEN '"''' || replace(p_text, '"', '""') || '"'
        WHEN p_text ~ '[",\r\n]' THEN '"' || replace(p_text, '"', '""') || '"'
        ELSE p_text END
$$;

-- Whether cells are just what they say, as nearly all are: they begin with a letter or a digit and go on with nothing that
-- a CSV file or a spreadsheet takes for anything else. `p_cells` has \x01 before each of them, which none of them passes with.
CREATE FUNCTION csv_are_plain(p_cells text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_cells ~ '^(\x01[A-Za-z0-9][A-Za-z0-9 ._:/@()+=#-]*)*$'
$$;

-- The same as `csv_cell` for one of cells that have been looked at.
CREATE FUNCTION csv_cell(p_text text, p_is_plain boolean) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_is_plain THEN COALESCE(p_text, '') ELSE csv_cell(p_text) END
$$;

-- The same as before (an amount as decimal text in USD with two to nine decimals), with less to do.
CREATE OR REPLACE FUNCTION usd(p_nanos bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_nanos % 10000000 = 0 THEN (p_nanos * 0.000000001)::numeric(20, 2)::text
        ELSE trim_scale(p_nanos * 0.000000001)::text END
$$;
