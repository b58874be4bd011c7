-- What people read: usage rows by their filters, credits by their entries.

-- Whether whoever has a key may read everybody's usage in its organization, as OpenAI's cost tools do.
ALTER TABLE keys ADD COLUMN reads_usage boolean NOT NULL DEFAULT false;

-- Entries that people made are few among those of usage.
CREATE INDEX ledger_entries_by_people ON ledger_entries (account_id, entry_no) WHERE request_id IS NULL;

CREATE INDEX usage_events_by_conversation ON usage_events (account_id, conversation, occurred_at, id)
    WHERE conversation IS NOT NULL;

-- One page of an account's usage rows, the latest first, below (p_before, p_before_id). NULL asks for anything.
-- Rollups know in which hours there is anything to find, so that no filter has to walk over what it leaves out. Where
-- there is, it is looked for in the latest hour first, then in four times as many before, and so on: what nearly all rows
-- fit is found at once, and what few do in a handful of steps.
CREATE FUNCTION activity(
    p_account uuid, p_from timestamptz, p_before timestamptz, p_before_id uuid, p_rows bigint, p_user uuid, p_key uuid,
    p_model text, p_provider text, p_operation text, p_completed boolean, p_status smallint, p_conversation text)
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
          AND (p_user IS NULL OR u.user_id = p_user) AND (p_key IS NULL OR u.key_id = p_key)
          AND (p_model IS NULL OR u.model = p_model) AND (p_provider IS NULL OR u.provider = p_provider)
          AND (p_operation IS NULL OR u.operation = p_operation)
          AND (p_completed IS NULL OR (u.outcome = 'completed') = p_completed)
          AND (p_status IS NULL OR u.status = p_status)
        ORDER BY u.occurred_at DESC, u.id DESC LIMIT p_rows;
        RETURN;
    ELSIF COALESCE(p_user::text, p_key::text, p_model, p_provider, p_operation, p_completed::text, p_status::text) IS NULL THEN
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
              AND (p_user IS NULL OR r.user_id = p_user) AND (p_key IS NULL OR r.key_id = p_key)
              AND (p_model IS NULL OR r.model = p_model) AND (p_provider IS NULL OR r.provider = p_provider)
              AND (p_operation IS NULL OR r.operation = p_operation)
              AND (completed IS NULL OR CASE WHEN completed THEN r.requests > r.failures ELSE r.failures > 0 END)
        ) h CROSS JOIN LATERAL (
            SELECT * FROM usage_events e
            WHERE e.account_id = p_account AND e.occurred_at >= GREATEST(h.hour, p_from)
              AND e.occurred_at < h.hour + interval '1 hour' AND (e.occurred_at, e.id) < (p_before, p_before_id)
              AND e.occurred_at > latest - width AND e.occurred_at < latest + interval '1 hour'
              AND (p_user IS NULL OR e.user_id = p_user) AND (p_key IS NULL OR e.key_id = p_key)
              AND (p_model IS NULL OR e.model = p_model) AND (p_provider IS NULL OR e.provider = p_provider)
              AND (p_operation IS NULL OR e.operation = p_operation)
              AND (p_completed IS NULL OR (e.outcome = 'completed') = p_completed)
              AND (p_status IS NULL OR e.status = p_status)
            ORDER BY e.occurred_at DESC, e.id DESC LIMIT lacking
        ) u ORDER BY u.occurred_at DESC, u.id DESC LIMIT lacking;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        lacking := lacking - found_rows;
        latest := latest - width;
        width := width * 4;
    END LOOP;
END $$;

-- One cell of a CSV file. What a spreadsheet would run as a formula is shown as text; some skip blanks before it, some read
-- wide signs as narrow ones.
CREATE FUNCTION csv_cell(p_text text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN p_text IS NULL THEN ''
        WHEN p_text ~ '^(\s*[-=+@＝＋－＠]|[\t\r\n])' THEN '"''' || replace(p_text, '"', '""') || '"'
        WHEN p_text ~ '[",\r\n]' THEN '"' || replace(p_text, '"', '""') || '"'
        ELSE p_text END
$$;

-- An amount as decimal text in USD, nine decimals.
CREATE FUNCTION usd(p_nanos bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (p_nanos::numeric / 1000000000)::numeric(20, 9)::text
$$;

-- Whether a limit was made by the people of its organization: those of the operator are not theirs to change.
ALTER TABLE limits ADD COLUMN is_own boolean NOT NULL DEFAULT false;

-- The key by which a signed-in user chats on an organization's credit; nobody is told its secret.
ALTER TABLE keys ADD COLUMN is_chat boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX user_has_one_chat_key ON keys (account_id, user_id) WHERE is_chat AND revoked_at IS NULL;
