-- Leases of sessions that have ended become one number of their window, so that what is summed over leases does not grow
-- with every restart.

-- What ended sessions have consumed of a window, whose leases are no rows any more. An ended lease has returned all that it
-- did not consume, so this is also all that it had lent:
-- drawn = Σ granted − Σ returned + folded + overrun + late + counted − unspent.
ALTER TABLE limit_windows ADD COLUMN folded bigint NOT NULL DEFAULT 0;
ALTER TABLE limit_windows ADD CONSTRAINT folded_not_negative CHECK (folded >= 0);

-- Where upkeep finds what durable holds had drawn from windows that are let go of.
CREATE INDEX durable_draws_by_window ON durable_draws (account_id, limit_id, window_start);
