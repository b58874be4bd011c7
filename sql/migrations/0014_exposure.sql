-- Exposure: what the running requests of an account may cost beyond what they hold. A limit that is lent like any other,
-- of which nothing is ever used up: what was drawn comes back with each extension of a hold and with its end.

ALTER TABLE limits
    DROP CONSTRAINT limit_kind_is_known,
    ADD CONSTRAINT limit_kind_is_known CHECK (kind IN ('credit', 'budget', 'rate', 'exposure')),
    DROP CONSTRAINT limit_measure_is_known,
    ADD CONSTRAINT limit_measure_is_known CHECK (measure IN ('amount', 'requests', 'tokens', 'concurrent', 'exposure')),
    DROP CONSTRAINT only_credit_and_concurrent_have_no_window,
    ADD CONSTRAINT only_what_runs_and_credit_have_no_window CHECK
        ((window_kind = 'none') = (kind = 'credit' OR measure IN ('concurrent', 'exposure'))),
    ADD CONSTRAINT exposure_is_of_accounts CHECK
        ((kind = 'exposure') = (measure = 'exposure') AND (kind <> 'exposure' OR (scope = 'account' AND cap IS NOT NULL)));
CREATE UNIQUE INDEX account_has_one_exposure ON limits (account_id) WHERE kind = 'exposure';
