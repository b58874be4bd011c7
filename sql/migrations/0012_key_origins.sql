-- The first key of a chain of rotations: its limits count what all keys of the chain do, so that nobody's budget begins
-- anew with a new secret.
ALTER TABLE keys ADD COLUMN origin_id uuid;
UPDATE keys k SET origin_id = k.id;
ALTER TABLE keys ALTER COLUMN origin_id SET NOT NULL;
CREATE INDEX keys_by_origin ON keys (origin_id);
