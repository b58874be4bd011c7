-- People are told that their credit will soon be used up: within how many days (NULL: never), and since when it is known
-- that they have been.
ALTER TABLE credit_marks
    ADD COLUMN runs_out_days smallint DEFAULT 7,
    ADD COLUMN runs_out_since timestamptz,
    ADD CONSTRAINT runs_out_days_are_near CHECK (runs_out_days BETWEEN 1 AND 90);

-- When the forecasts of all accounts were last looked at, by whichever worker came first.
CREATE TABLE forecast_looks (
    is_only boolean PRIMARY KEY DEFAULT true,
    looked_at timestamptz NOT NULL,
    CONSTRAINT there_is_one_row CHECK (is_only)
);
INSERT INTO forecast_looks (looked_at) VALUES ('-infinity');
