-- Owners: whose the resources are that tenants make at providers, where all of them share one account.

-- One row per resource and account that made it, written once and never changed but for its end: a deletion is an
-- instant in `forgotten_at`, not a missing row, so that a journal that is replayed cannot bring the resource back.
-- Nothing is updated in place as a rule, so pages are filled to the brim.
CREATE TABLE owners (
    account_id uuid NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    provider text NOT NULL,
    created_at timestamptz NOT NULL,
    forgotten_at timestamptz,
    PRIMARY KEY (account_id, kind, id)
);

-- What providers themselves forget is deleted by age; see `delete_old_owners`, which repeats this condition.
CREATE INDEX owners_that_age ON owners (created_at) WHERE kind IN ('response', 'chat_completion');

-- Few rows, looked at by every worker twice a second, and deleted by age too.
CREATE INDEX owners_forgotten ON owners (forgotten_at) WHERE forgotten_at IS NOT NULL;
