-- Idempotency: the request that answers under a key, what is kept of its answer, and charges that another took the place of.

-- One row per key and account. `running` belongs to `request_id` for as long as its worker's session lives. `forfeited`
-- and `open` belong to nobody: the one may have been charged, the other was charged nothing but came after others that
-- may have been. `answer` is sealed and not compressible. No foreign keys: checking them would wait for every settle of
-- the account.
CREATE TABLE idempotent_requests (
    account_id uuid NOT NULL,
    key_digest bytea NOT NULL,
    request_digest bytea NOT NULL,
    request_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    session_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'running',
    claimed_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    answered_at timestamptz,
    answer bytea,
    answer_bytes bigint,
    master_key_id bytea,
    PRIMARY KEY (account_id, key_digest),
    CONSTRAINT key_and_request_are_known_by_sha256 CHECK (length(key_digest) = 32 AND length(request_digest) = 32),
    CONSTRAINT claim_state_is_known CHECK (state IN ('running', 'answered', 'unkept', 'forfeited', 'open')),
    CONSTRAINT answered_means_kept CHECK ((state = 'answered') = (answer IS NOT NULL)
        AND (answer IS NULL) = (answer_bytes IS NULL) AND (answer IS NULL) = (master_key_id IS NULL)
        AND (answer IS NULL) = (answered_at IS NULL))
) WITH (fillfactor = 70);
ALTER TABLE idempotent_requests ALTER COLUMN answer SET STORAGE EXTERNAL;
CREATE INDEX idempotent_requests_that_age ON idempotent_requests (expires_at);
CREATE INDEX idempotent_answers_by_age ON idempotent_requests (account_id, answered_at) WHERE state = 'answered';

-- How much is kept for an account, so that it can be bounded.
CREATE TABLE kept_answers (
    account_id uuid PRIMARY KEY,
    bytes bigint NOT NULL DEFAULT 0,
    CONSTRAINT kept_bytes_not_negative CHECK (bytes >= 0)
) WITH (fillfactor = 50);

-- A request that lost its key without an answer, and one that came in its place: directly, or in the place of who did.
-- What the first was charged is given back once the second is captured, in whatever order the two are booked.
CREATE TABLE replaced_requests (
    account_id uuid NOT NULL,
    request_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    session_id uuid NOT NULL,
    replaced_by uuid NOT NULL,
    replaced_by_occurred_at timestamptz NOT NULL,
    replaced_by_session_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'pending',
    replaced_at timestamptz NOT NULL DEFAULT now(),
    next_look_at timestamptz NOT NULL DEFAULT now() + interval '1 second',
    decided_at timestamptz,
    PRIMARY KEY (account_id, request_id, replaced_by),
    CONSTRAINT replaced_state_is_known CHECK (state IN ('pending', 'reversed', 'kept')),
    CONSTRAINT pending_means_not_decided CHECK ((state = 'pending') = (decided_at IS NULL)),
    CONSTRAINT nobody_replaces_himself CHECK (request_id <> replaced_by)
);
CREATE INDEX replaced_requests_due ON replaced_requests (next_look_at) WHERE state = 'pending';
CREATE INDEX replaced_requests_by_successor ON replaced_requests (account_id, replaced_by);

-- The refund that undoes a charge names it, and there is one.
ALTER TABLE ledger_entries ADD COLUMN reverses uuid;
ALTER TABLE ledger_entries ADD CONSTRAINT reversals_are_refunds
    CHECK (reverses IS NULL OR (kind = 'refund' AND amount_nanos > 0));
CREATE UNIQUE INDEX request_is_reversed_once ON ledger_entries (account_id, reverses) WHERE reverses IS NOT NULL;

-- Whether a worker's session may still answer what it has claimed.
CREATE FUNCTION session_lives(p_session_id uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM worker_sessions WHERE id = p_session_id AND state = 'live' AND expires_at > now())
$$;

-- Ask for a key: get it, or hear what is under it. Asking again with the same request gets it again. A claim whose
-- session has ended, or that is older than any exchange, is taken over, and with it who it had taken the place of.
CREATE FUNCTION claim_idempotency_key(
    p_account_id uuid, p_key_digest bytea, p_request_digest bytea, p_request_id uuid, p_occurred_at timestamptz,
    p_session_id uuid, p_kept_seconds float8, p_longest_seconds float8
) RETURNS TABLE (verdict text, answered_by uuid, answer bytea, master_key_id bytea)
LANGUAGE plpgsql AS $$
DECLARE
    earlier idempotent_requests%ROWTYPE;
    lost boolean;
BEGIN
    LOOP
        INSERT INTO idempotent_requests
            (account_id, key_digest, request_digest, request_id, occurred_at, session_id, expires_at)
            VALUES (p_account_id, p_key_digest, p_request_digest, p_request_id, p_occurred_at, p_session_id,
                now() + make_interval(secs => p_kept_seconds))
            ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN QUERY SELECT 'claimed', p_request_id, NULL::bytea, NULL::bytea;
            RETURN;
        END IF;
        SELECT * INTO earlier FROM idempotent_requests i
            WHERE i.account_id = p_account_id AND i.key_digest = p_key_digest FOR UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    IF earlier.request_id = p_request_id AND earlier.state = 'running' THEN
        RETURN QUERY SELECT 'claimed', p_request_id, NULL::bytea, NULL::bytea;
        RETURN;
    END IF;
    IF earlier.expires_at > now() THEN
        IF earlier.request_digest <> p_request_digest THEN
            RETURN QUERY SELECT 'differs', earlier.request_id, NULL::bytea, NULL::bytea;
            RETURN;
        ELSIF earlier.state IN ('answered', 'unkept') THEN
            RETURN QUERY SELECT earlier.state, earlier.request_id, earlier.answer, earlier.master_key_id;
            RETURN;
        END IF;
        lost := earlier.state <> 'open';
        IF earlier.state = 'running' AND session_lives(earlier.session_id)
            AND earlier.claimed_at > now() - make_interval(secs => p_longest_seconds) THEN
            RETURN QUERY SELECT 'running', earlier.request_id, NULL::bytea, NULL::bytea;
            RETURN;
        END IF;
        INSERT INTO replaced_requests (account_id, request_id, occurred_at, session_id, replaced_by,
            replaced_by_occurred_at, replaced_by_session_id)
            SELECT r.account_id, r.request_id, r.occurred_at, r.session_id, p_request_id, p_occurred_at, p_session_id
            FROM replaced_requests r WHERE r.account_id = p_account_id AND r.replaced_by = earlier.request_id
            UNION ALL
            SELECT p_account_id, earlier.request_id, earlier.occurred_at, earlier.session_id, p_request_id,
                p_occurred_at, p_session_id WHERE lost;
    END IF;
    UPDATE kept_answers k SET bytes = k.bytes - earlier.answer_bytes
        WHERE k.account_id = p_account_id AND earlier.answer_bytes IS NOT NULL;
    UPDATE idempotent_requests i SET request_digest = p_request_digest, request_id = p_request_id,
        occurred_at = p_occurred_at, session_id = p_session_id, state = 'running', claimed_at = now(),
        expires_at = now() + make_interval(secs => p_kept_seconds), answered_at = NULL, answer = NULL,
        answer_bytes = NULL, master_key_id = NULL
        WHERE i.account_id = p_account_id AND i.key_digest = p_key_digest;
    RETURN QUERY SELECT 'claimed', p_request_id, NULL::bytea, NULL::bytea;
END $$;

-- End a claim, if it is still this request's. What is kept for the account stays below `p_most_bytes`: the oldest answers
-- go first, and are then unkept, so that nobody is charged again under their keys.
CREATE FUNCTION end_idempotency_claim(
    p_account_id uuid, p_key_digest bytea, p_request_id uuid, p_end text, p_answer bytea, p_master_key_id bytea,
    p_most_bytes bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    kept bigint;
    oldest record;
BEGIN
    IF p_end = 'answered' THEN
        INSERT INTO kept_answers (account_id) VALUES (p_account_id) ON CONFLICT DO NOTHING;
        SELECT bytes INTO kept FROM kept_answers WHERE account_id = p_account_id FOR UPDATE;
    END IF;
    PERFORM FROM idempotent_requests WHERE account_id = p_account_id AND key_digest = p_key_digest
        AND request_id = p_request_id AND state = 'running' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF p_end = 'released' THEN
        UPDATE replaced_requests SET state = 'kept', decided_at = now()
            WHERE account_id = p_account_id AND replaced_by = p_request_id AND state = 'pending';
        IF EXISTS (SELECT FROM replaced_requests WHERE account_id = p_account_id AND replaced_by = p_request_id) THEN
            UPDATE idempotent_requests SET state = 'open'
                WHERE account_id = p_account_id AND key_digest = p_key_digest;
        ELSE
            DELETE FROM idempotent_requests WHERE account_id = p_account_id AND key_digest = p_key_digest;
        END IF;
        RETURN true;
    END IF;
    UPDATE idempotent_requests SET state = p_end, answer = p_answer, answer_bytes = length(p_answer),
        master_key_id = p_master_key_id, answered_at = CASE WHEN p_answer IS NOT NULL THEN now() END
        WHERE account_id = p_account_id AND key_digest = p_key_digest;
    IF p_end = 'answered' THEN
        kept := kept + length(p_answer);
        FOR oldest IN
            SELECT key_digest, answer_bytes FROM idempotent_requests
                WHERE account_id = p_account_id AND state = 'answered' AND request_id <> p_request_id
                ORDER BY answered_at FOR UPDATE SKIP LOCKED
        LOOP
            EXIT WHEN kept <= p_most_bytes;
            UPDATE idempotent_requests SET state = 'unkept', answer = NULL, answer_bytes = NULL, master_key_id = NULL,
                answered_at = NULL
                WHERE account_id = p_account_id AND key_digest = oldest.key_digest;
            kept := kept - oldest.answer_bytes;
        END LOOP;
        UPDATE kept_answers SET bytes = kept WHERE account_id = p_account_id;
    END IF;
    RETURN true;
END $$;

-- What a request was charged, all in all.
CREATE FUNCTION charged_nanos(p_account_id uuid, p_request_id uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT COALESCE(-sum(amount_nanos), 0)::bigint FROM ledger_entries
    WHERE account_id = p_account_id AND request_id = p_request_id
$$;

-- Whether the books know all of a request that they ever will: it has its row, or its session is settled to the end and
-- no durable hold of it is open.
CREATE FUNCTION is_known(p_account_id uuid, p_occurred_at timestamptz, p_request_id uuid, p_session_id uuid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM usage_events WHERE account_id = p_account_id AND occurred_at = p_occurred_at AND id = p_request_id)
        OR EXISTS (SELECT FROM settle_rejected WHERE request_id = p_request_id)
        OR (EXISTS (SELECT FROM worker_sessions WHERE id = p_session_id AND state IN ('closed', 'proved'))
            AND NOT EXISTS (SELECT FROM durable_holds
                            WHERE account_id = p_account_id AND request_id = p_request_id AND state = 'open'))
$$;

-- Whether a request counts as answered for those whose place it took: it was captured, or charged in any other way.
CREATE FUNCTION counts_as_answered(p_account_id uuid, p_occurred_at timestamptz, p_request_id uuid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT charged_nanos(p_account_id, p_request_id) > 0
        OR EXISTS (SELECT FROM usage_events WHERE account_id = p_account_id AND occurred_at = p_occurred_at
                     AND id = p_request_id AND ending = 'captured')
$$;

-- Decide about one replaced request, as far as the books allow it: give back what it was charged if and only if the
-- other counts as answered. Under the account's lock, where entries are made; a charge is given back once, whoever
-- took the place and however often it is looked at.
CREATE FUNCTION decide_replaced(p_account_id uuid, p_request_id uuid, p_replaced_by uuid) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    pair replaced_requests%ROWTYPE;
    charged bigint;
    answered boolean;
    decision text;
    credit uuid;
BEGIN
    PERFORM FROM accounts WHERE id = p_account_id FOR UPDATE;
    SELECT * INTO pair FROM replaced_requests
        WHERE account_id = p_account_id AND request_id = p_request_id AND replaced_by = p_replaced_by FOR UPDATE;
    IF pair.state IS DISTINCT FROM 'pending' THEN
        RETURN pair.state;
    END IF;
    charged := charged_nanos(p_account_id, p_request_id);
    answered := counts_as_answered(p_account_id, pair.replaced_by_occurred_at, p_replaced_by);
    IF charged > 0 AND answered THEN
        decision := 'reversed';
    ELSIF (charged = 0 AND is_known(p_account_id, pair.occurred_at, p_request_id, pair.session_id))
        OR (NOT answered
            AND is_known(p_account_id, pair.replaced_by_occurred_at, p_replaced_by, pair.replaced_by_session_id)) THEN
        decision := 'kept';
    ELSE
        RETURN 'pending';
    END IF;
    UPDATE replaced_requests SET state = decision, decided_at = now()
        WHERE account_id = p_account_id AND request_id = p_request_id AND replaced_by = p_replaced_by;
    IF decision = 'kept' OR EXISTS (
        SELECT FROM ledger_entries WHERE account_id = p_account_id AND reverses = p_request_id) THEN
        RETURN decision;
    END IF;
    SELECT id INTO credit FROM limits WHERE account_id = p_account_id AND kind = 'credit';
    WITH account AS (
        UPDATE accounts SET credits_nanos = credits_nanos + charged, balance_nanos = balance_nanos + charged,
            last_entry_no = last_entry_no + 1
        WHERE id = p_account_id RETURNING *
    ), cap AS (
        UPDATE limit_windows w SET cap = account.credits_nanos + account.overdraft_nanos
        FROM account WHERE w.account_id = account.id AND w.limit_id = credit
    )
    INSERT INTO ledger_entries
        (account_id, entry_no, kind, amount_nanos, balance_after_nanos, description, actor, reverses)
        SELECT id, last_entry_no, 'refund', charged, balance_nanos,
            format('request %s was answered by %s under the same Idempotency-Key', p_request_id, p_replaced_by),
            'idempotency', p_request_id
        FROM account;
    PERFORM record_change('limit', credit);
    RETURN decision;
END $$;
