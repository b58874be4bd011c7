-- Tags that are new on a day that has a thousand already are counted as "(other)", and not named any more: whoever makes up
-- names would have settling count all of a day's for each of them. `activity` is as in migration 38, but for one line: it
-- looks into days that have such tags, too.
CREATE OR REPLACE FUNCTION activity(
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
                  SELECT d.day FROM tags_by_day d WHERE d.account_id = p_account AND d.tag IN (p_tag, '(other)')
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
