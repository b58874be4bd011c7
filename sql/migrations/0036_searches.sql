-- Searches that providers ran for a request are few among all requests, and no rollup tells them apart: OpenAI's cost
-- tools ask for them by hours and days.
CREATE INDEX usage_events_with_searches ON usage_events (account_id, occurred_at)
    WHERE other_usage ? 'web_searches' OR other_usage ? 'file_searches';
