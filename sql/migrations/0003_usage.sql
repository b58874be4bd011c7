-- Usage: one row per exchange that placed a hold, and the rollups that pages read instead.

CREATE TABLE usage_events (
    account_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    key_id uuid NOT NULL,
    session_id uuid,
    operation text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    served_model text,
    service_tier text,
    provider_request_id text,
    is_stream boolean NOT NULL,
    ending text NOT NULL,
    outcome text NOT NULL,
    status smallint NOT NULL,
    usage_source text NOT NULL,
    input_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    other_usage jsonb,
    raw_usage jsonb,
    flags text[],
    tools text[],
    conversation text,
    tags jsonb,
    price_id uuid NOT NULL,
    markup_ppm bigint NOT NULL,
    bound_input_tokens bigint NOT NULL,
    bound_output_tokens bigint NOT NULL,
    hold_nanos bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    amount_nanos bigint NOT NULL,
    overrun_nanos bigint NOT NULL,
    latency_us bigint NOT NULL,
    first_byte_us bigint,
    journal_id uuid NOT NULL,
    journal_position bigint NOT NULL,
    PRIMARY KEY (account_id, occurred_at, id),
    CONSTRAINT ending_is_known CHECK (ending IN ('captured', 'released', 'recovered')),
    CONSTRAINT overrun_is_part_of_the_amount CHECK (overrun_nanos BETWEEN 0 AND amount_nanos),
    CONSTRAINT released_costs_nothing CHECK (ending <> 'released' OR amount_nanos = 0)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX usage_events_by_id ON usage_events (id);
CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;

-- A record that PostgreSQL would not take as it is: its money is booked all the same, the record waits for a person.
CREATE TABLE settle_rejected (
    request_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    amount_nanos bigint NOT NULL,
    overrun_nanos bigint NOT NULL,
    journal_id uuid NOT NULL,
    journal_position bigint NOT NULL,
    error text NOT NULL,
    record bytea NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE usage_by_hour (
    account_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    user_id uuid NOT NULL,
    key_id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    operation text NOT NULL,
    requests bigint NOT NULL,
    failures bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    amount_nanos bigint NOT NULL,
    PRIMARY KEY (account_id, hour, key_id, user_id, provider, model, operation)
) WITH (fillfactor = 70);

CREATE TABLE usage_by_day (
    account_id uuid NOT NULL,
    day date NOT NULL,
    user_id uuid NOT NULL,
    key_id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    operation text NOT NULL,
    requests bigint NOT NULL,
    failures bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    amount_nanos bigint NOT NULL,
    PRIMARY KEY (account_id, day, key_id, user_id, provider, model, operation)
) WITH (fillfactor = 70);

-- Latency as counts in buckets of powers of two of a millisecond: bucket b holds [2^(b-1), 2^b) ms, bucket 0 below 1 ms.
CREATE TABLE latency_by_hour (
    account_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    model text NOT NULL,
    bucket smallint NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (account_id, hour, model, bucket)
) WITH (fillfactor = 70);

CREATE TABLE tools_by_day (
    account_id uuid NOT NULL,
    day date NOT NULL,
    tool text NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (account_id, day, tool)
) WITH (fillfactor = 70);

CREATE TABLE tags_by_day (
    account_id uuid NOT NULL,
    day date NOT NULL,
    tag text NOT NULL,
    value text NOT NULL,
    requests bigint NOT NULL,
    amount_nanos bigint NOT NULL,
    PRIMARY KEY (account_id, day, tag, value)
) WITH (fillfactor = 70);

CREATE TABLE conversations (
    account_id uuid NOT NULL,
    conversation text NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    requests bigint NOT NULL,
    amount_nanos bigint NOT NULL,
    PRIMARY KEY (account_id, conversation)
) WITH (fillfactor = 70);
CREATE INDEX conversations_by_recency ON conversations (account_id, last_at, conversation);

-- Where a batch is copied to before one statement books it. Unlogged and emptied in the same transaction.
CREATE UNLOGGED TABLE usage_staging (
    batch_id uuid NOT NULL,
    LIKE usage_events
);
CREATE UNLOGGED TABLE draw_staging (
    batch_id uuid NOT NULL,
    request_id uuid NOT NULL,
    account_id uuid NOT NULL,
    limit_id uuid NOT NULL,
    window_start timestamptz NOT NULL,
    session_id uuid NOT NULL,
    consumed bigint NOT NULL,
    overrun bigint NOT NULL
);
CREATE INDEX usage_staging_by_batch ON usage_staging (batch_id);
CREATE INDEX draw_staging_by_batch ON draw_staging (batch_id);
