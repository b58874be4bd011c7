-- Auto-recharge: how much credit is ordered by itself when what is left falls below the mark; NULL: none. `recharged_since`
-- is the `low_since` of the last fall that was dealt with, so that each orders at most once.
ALTER TABLE credit_marks
    ADD COLUMN recharge_nanos bigint,
    ADD COLUMN recharged_since timestamptz,
    ADD CONSTRAINT recharge_is_of_money CHECK (recharge_nanos > 0),
    ADD CONSTRAINT recharge_needs_its_mark CHECK (recharge_nanos IS NULL OR below_nanos IS NOT NULL);
CREATE INDEX credit_marks_to_recharge ON credit_marks (account_id) WHERE recharge_nanos IS NOT NULL;

ALTER TABLE purchases ADD COLUMN automatic boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX one_automatic_purchase_is_pending ON purchases (account_id) WHERE automatic AND state = 'pending';
