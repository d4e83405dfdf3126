-- +goose Up

-- What was done to hosts, which are of no account: docs/adr/0028-hosts-for-operators.md.
CREATE TABLE host_audit_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor      text NOT NULL, -- an API key's id, 'operator', 'system', or the token of a host that joins
    action     text NOT NULL, -- such as host.drain
    target     text NOT NULL, -- a host's id or a token's
    outcome    text NOT NULL, -- ok, or the code of an error
    detail     text NOT NULL DEFAULT '',
    request_id text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX host_audit_events_by_target ON host_audit_events (target, id DESC);

-- What may be expected of a host, in the words of the API.
-- +goose StatementBegin
CREATE FUNCTION host_state(down_at timestamptz, draining boolean, quarantine text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN down_at IS NOT NULL THEN 'down' WHEN draining THEN 'draining' WHEN quarantine <> '' THEN 'quarantined' ELSE 'ready' END
$$;
-- +goose StatementEnd

-- Since when that is so. It is a trigger, so that no statement can forget it.
ALTER TABLE hosts ADD COLUMN state_since timestamptz NOT NULL DEFAULT now();
UPDATE hosts SET state_since = coalesce(down_at, quarantined_at, connected_at);
-- +goose StatementBegin
CREATE FUNCTION note_host_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state_since := now();
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER note_host_state BEFORE UPDATE ON hosts FOR EACH ROW
    WHEN (host_state(OLD.down_at, OLD.draining, OLD.quarantine) <> host_state(NEW.down_at, NEW.draining, NEW.quarantine))
    EXECUTE FUNCTION note_host_state();

-- +goose Down
DROP TRIGGER note_host_state ON hosts;
DROP FUNCTION note_host_state();
ALTER TABLE hosts DROP COLUMN state_since;
DROP FUNCTION host_state(timestamptz, boolean, text);
DROP TABLE host_audit_events;
