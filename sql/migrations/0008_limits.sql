-- Limits beyond credit: budgets and rate limits of an account, an organization, a team, a user or a key; and what an
-- operator may do to the whole fleet at once.

-- A team shares limits. A key may belong to one; its requests draw from that team's limits then.
CREATE TABLE teams (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT team_has_a_name CHECK (length(name) BETWEEN 1 AND 200),
    CONSTRAINT team_name_is_unique UNIQUE (organization_id, name)
);
ALTER TABLE keys ADD COLUMN team_id uuid REFERENCES teams (id);

-- `grace` is how far beyond its cap a hard limit still lends, in its own measure; `marks` are the percentages of the cap
-- whose crossing is recorded. A limit without a cap is only counted, as a soft one is. A limit is retired, never deleted.
ALTER TABLE limits
    ADD COLUMN name text NOT NULL DEFAULT '',
    ADD COLUMN grace bigint NOT NULL DEFAULT 0,
    ADD COLUMN marks integer[] NOT NULL DEFAULT '{75,90,100}',
    ADD CONSTRAINT cap_not_negative CHECK (cap >= 0),
    ADD CONSTRAINT grace_not_negative CHECK (grace >= 0),
    ADD CONSTRAINT only_credit_and_concurrent_have_no_window CHECK
        ((window_kind = 'none') = (kind = 'credit' OR measure = 'concurrent')),
    ADD CONSTRAINT budgets_are_of_money CHECK (kind = 'credit' OR (kind = 'budget') = (measure = 'amount'));
CREATE INDEX limits_by_account ON limits (account_id) WHERE retired_at IS NULL;

-- `counted` is what soft limits and those without a cap saw pass: settled without ever having been lent.
-- drawn = Σ granted − Σ returned + overrun + late + counted − unspent.
ALTER TABLE limit_windows ADD COLUMN counted bigint NOT NULL DEFAULT 0;
ALTER TABLE limit_windows ADD CONSTRAINT counted_not_negative CHECK (counted >= 0);

-- Which marks of which windows have been passed, each once: what notifications are made of.
CREATE TABLE limit_crossings (
    account_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    window_start timestamptz NOT NULL,
    mark integer NOT NULL,
    used bigint NOT NULL,
    cap bigint NOT NULL,
    crossed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, limit_id, window_start, mark)
);

-- A frozen account is served nothing that costs.
ALTER TABLE accounts ADD COLUMN frozen_at timestamptz;

-- What holds for the whole fleet: whether anything is lent, whether anything is served that costs, whether limits refuse
-- (`shadow`: they only count), and until when lending rests after a failover.
CREATE TABLE fleet_state (
    only_row boolean PRIMARY KEY DEFAULT true,
    lending boolean NOT NULL DEFAULT true,
    read_only boolean NOT NULL DEFAULT false,
    shadow boolean NOT NULL DEFAULT false,
    paused_until timestamptz,
    CONSTRAINT one_fleet CHECK (only_row)
);
INSERT INTO fleet_state DEFAULT VALUES;

-- Hosts that an operator has told to give back what they have and serve nothing more.
CREATE TABLE drained_hosts (
    host text PRIMARY KEY,
    drained_at timestamptz NOT NULL DEFAULT now()
);

-- Who must hear of a change: an account's keys and limits are kept in memory by account.
ALTER TABLE changes ADD COLUMN account_id uuid;
DROP FUNCTION record_change(text, uuid);
CREATE FUNCTION record_change(p_kind text, p_subject_id uuid, p_account_id uuid DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
BEGIN
    UPDATE change_counter SET version = version + 1 RETURNING version INTO number;
    INSERT INTO changes (version, kind, subject_id, account_id) VALUES (number, p_kind, p_subject_id, p_account_id);
    PERFORM pg_notify('meterproxy_changes', number::text);
    RETURN number;
END $$;
