-- Purchases: credit that is ordered here and paid elsewhere. Whoever sees the money arrive confirms one, and only that books
-- it. `method` says how it is paid; `code` is what people write on a transfer, `reference` what the buyer calls it.
CREATE TABLE purchases (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    method text NOT NULL,
    code text NOT NULL,
    amount_nanos bigint NOT NULL,
    reference text NOT NULL,
    state text NOT NULL DEFAULT 'pending',
    user_id uuid REFERENCES users (id),
    idempotency_key text,
    idempotency_digest bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    reason text NOT NULL DEFAULT '',
    booked_nanos bigint,
    entry_no bigint,
    CONSTRAINT purchase_state_is_known CHECK (state IN ('pending', 'confirmed', 'declined', 'cancelled')),
    CONSTRAINT purchase_is_of_money CHECK (amount_nanos > 0 AND (booked_nanos IS NULL OR booked_nanos > 0)),
    CONSTRAINT pending_means_not_ended CHECK ((state = 'pending') = (ended_at IS NULL)),
    CONSTRAINT confirmed_means_booked CHECK
        ((state = 'confirmed') = (entry_no IS NOT NULL) AND (entry_no IS NULL) = (booked_nanos IS NULL)),
    CONSTRAINT purchase_code_is_unique UNIQUE (code),
    CONSTRAINT entry_is_of_one_purchase UNIQUE (account_id, entry_no)
);
CREATE INDEX purchases_by_account ON purchases (account_id, id);
CREATE INDEX purchases_pending ON purchases (id) WHERE state = 'pending';
CREATE UNIQUE INDEX purchase_is_made_once ON purchases (account_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A purchase ends once, and nothing about it changes after that.
CREATE TRIGGER ended_purchases_stay BEFORE UPDATE ON purchases
    FOR EACH ROW WHEN (OLD.state <> 'pending') EXECUTE FUNCTION refuse_change();
CREATE TRIGGER purchases_are_kept BEFORE DELETE OR TRUNCATE ON purchases
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Notifications: what happened in an account that people should hear of, as it was then. `user_id` is whose it is (his own
-- budget, his key's); those who see the whole account see it too. `for_payers`: only those who may see purchases do.
-- Nothing here refers to rows that settling locks: telling must never make it wait.
CREATE TABLE notifications (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id uuid NOT NULL,
    kind text NOT NULL,
    user_id uuid,
    for_payers boolean NOT NULL DEFAULT false,
    subject_id uuid NOT NULL,
    detail jsonb NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notifications_by_account ON notifications (account_id, id);
CREATE INDEX notifications_by_user ON notifications (account_id, user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX notifications_by_age ON notifications (occurred_at);

CREATE TABLE notification_reads (
    notification_id bigint NOT NULL REFERENCES notifications (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id),
    read_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (notification_id, user_id)
);

-- Below what is left of its credit an account's people are told, once for each time that it falls; NULL: never. `low_since`
-- and `exhausted_since` say that they have been.
CREATE TABLE credit_marks (
    account_id uuid PRIMARY KEY REFERENCES accounts (id),
    below_nanos bigint DEFAULT 1000000000,
    low_since timestamptz,
    exhausted_since timestamptz,
    CONSTRAINT credit_mark_above_zero CHECK (below_nanos > 0)
) WITH (fillfactor = 70);
INSERT INTO credit_marks (account_id) SELECT id FROM accounts;

CREATE FUNCTION mark_new_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO credit_marks (account_id) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER every_account_has_its_mark AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION mark_new_account();
