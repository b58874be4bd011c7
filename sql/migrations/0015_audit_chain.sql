-- The audit log is a chain: each row's digest is made of what the row says and of the digest before it, so that a row that
-- was changed, taken out or put in between breaks everything behind it. Rows are chained as their transactions commit,
-- under one lock that is taken last and held for a moment only.

CREATE TABLE audit_head (
    only_row boolean PRIMARY KEY DEFAULT true,
    number bigint NOT NULL DEFAULT 0,
    digest bytea NOT NULL DEFAULT '\x',
    CONSTRAINT one_audit_head CHECK (only_row)
);
INSERT INTO audit_head DEFAULT VALUES;

CREATE TABLE audit_chain (
    number bigint PRIMARY KEY,
    audit_id bigint NOT NULL UNIQUE,
    digest bytea NOT NULL,
    CONSTRAINT audit_digest_is_sha256 CHECK (length(digest) = 32)
);
CREATE TRIGGER audit_chain_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What a row says, as bytes that depend on no setting: its instant in microseconds, the rest as JSON.
CREATE FUNCTION audit_text(row_ audit_log) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT convert_to(jsonb_build_array(
        (extract(epoch FROM row_.occurred_at) * 1000000)::bigint, row_.actor, row_.action, row_.subject_kind,
        row_.subject_id, row_.detail)::text, 'UTF8')
$$;

CREATE FUNCTION chain_audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    head audit_head%ROWTYPE;
BEGIN
    UPDATE audit_head SET number = number + 1, digest = sha256(digest || audit_text(NEW)) RETURNING * INTO head;
    INSERT INTO audit_chain (number, audit_id, digest) VALUES (head.number, NEW.id, head.digest);
    RETURN NULL;
END $$;

DO $$
DECLARE
    earlier audit_log%ROWTYPE;
    head audit_head%ROWTYPE;
BEGIN
    FOR earlier IN SELECT * FROM audit_log ORDER BY id LOOP
        UPDATE audit_head SET number = number + 1, digest = sha256(digest || audit_text(earlier)) RETURNING * INTO head;
        INSERT INTO audit_chain (number, audit_id, digest) VALUES (head.number, earlier.id, head.digest);
    END LOOP;
END $$;

CREATE CONSTRAINT TRIGGER audit_log_is_chained AFTER INSERT ON audit_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chain_audit();
