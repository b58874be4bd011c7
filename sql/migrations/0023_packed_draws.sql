-- What a row drew from its limits, in a tenth of the time that JSON took to write: with limits on every level thirteen
-- draws made rows of two kilobytes, which PostgreSQL then tried to compress.

-- MessagePack: a list of (limit's id, window's start in µs, session's id where it is not the row's, held, consumed, overrun,
-- counted). NULL: the row drew from its account's credit alone; rows of earlier releases say it in `draws`.
ALTER TABLE usage_events ADD COLUMN packed_draws bytea;
ALTER TABLE usage_staging ADD COLUMN packed_draws bytea;
