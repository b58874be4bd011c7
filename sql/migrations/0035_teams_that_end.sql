-- A team is removed and not deleted: its keys, and what was used by them, still name it. Its name is free again.
ALTER TABLE teams ADD COLUMN removed_at timestamptz;
ALTER TABLE teams DROP CONSTRAINT team_name_is_unique;
CREATE UNIQUE INDEX team_name_is_unique ON teams (organization_id, name) WHERE removed_at IS NULL;
