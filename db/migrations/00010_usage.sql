-- +goose Up

-- What accounts have used: while it runs a sandbox uses processors and memory, while it sleeps, and as a snapshot, what it takes where it is stored. The periods of one
-- sandbox do not overlap, nor do those of one snapshot. Why they are as they are: docs/adr/0026-usage.md.
CREATE TABLE usage_periods (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id  text NOT NULL,
    sandbox_id  text NOT NULL REFERENCES sandboxes (id),
    snapshot_id text, -- null for the sandbox itself; the snapshot may be gone
    kind        text NOT NULL CHECK (kind IN ('running', 'paused', 'hibernated', 'snapshot')),
    vcpus       integer NOT NULL DEFAULT 0,
    memory_mib  bigint NOT NULL DEFAULT 0,
    stored_mib  bigint NOT NULL DEFAULT 0,
    begun_at    timestamptz NOT NULL,
    ended_at    timestamptz, -- null while it lasts
    cut_at      timestamptz, -- what lies before has been cut off for delivery; null for nothing
    CHECK ((kind = 'snapshot') = (snapshot_id IS NOT NULL)),
    CHECK (ended_at >= begun_at AND cut_at BETWEEN begun_at AND coalesce(ended_at, cut_at))
);
CREATE UNIQUE INDEX usage_periods_open ON usage_periods (sandbox_id, coalesce(snapshot_id, '')) WHERE ended_at IS NULL;
CREATE INDEX usage_periods_of ON usage_periods (sandbox_id, coalesce(snapshot_id, ''), id DESC);
CREATE INDEX usage_periods_by_account ON usage_periods (account_id, (coalesce(ended_at, timestamptz 'infinity')), id);

-- What a sandbox in a state uses; null for nothing. A host that makes a sandbox, wakes it or lets go of it does so at its own cost; while it puts one to sleep that still runs.
-- +goose StatementBegin
CREATE FUNCTION usage_kind(state sandbox_state) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN state IN ('running', 'pausing') THEN 'running'
        WHEN state IN ('paused', 'resuming', 'hibernating') THEN 'paused'
        WHEN state = 'hibernated' THEN 'hibernated' END
$$;
-- +goose StatementEnd

-- Ends the period that lasts of a sandbox, or of one of its snapshots, and returns when the next one can begin: at a time, or where that before has ended. So a clock that is
-- set back has no second counted twice.
-- +goose StatementBegin
CREATE FUNCTION end_usage(sandbox text, snapshot text, at timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    last usage_periods%ROWTYPE;
    ended timestamptz;
BEGIN
    SELECT * INTO last FROM usage_periods p
    WHERE p.sandbox_id = sandbox AND coalesce(p.snapshot_id, '') = coalesce(snapshot, '') ORDER BY p.id DESC LIMIT 1 FOR NO KEY UPDATE;
    IF last.ended_at IS NOT NULL THEN
        RETURN greatest(at, last.ended_at);
    END IF;
    ended := greatest(at, last.begun_at, last.cut_at); -- nulls count for nothing
    UPDATE usage_periods SET ended_at = ended WHERE id = last.id;
    RETURN ended;
END $$;
-- +goose StatementEnd

-- Every change of a sandbox's state is an event. Its usage is written where the event is, so that no statement can forget it.
-- +goose StatementBegin
CREATE FUNCTION add_usage_of_sandbox() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now text := usage_kind(NEW.to_state);
    changed_at timestamptz;
BEGIN
    IF now IS NOT DISTINCT FROM usage_kind(NEW.from_state) THEN
        RETURN NULL;
    END IF;
    changed_at := end_usage(NEW.sandbox_id, NULL, NEW.at);
    IF now IS NOT NULL THEN
        INSERT INTO usage_periods (account_id, sandbox_id, kind, vcpus, memory_mib, stored_mib, begun_at)
        SELECT account_id, id, now, CASE WHEN now = 'running' THEN vcpus ELSE 0 END, CASE WHEN now = 'running' THEN memory_mib ELSE 0 END,
            CASE WHEN now = 'running' THEN 0 ELSE disk_mib + memory_mib END, changed_at
        FROM sandboxes WHERE id = NEW.sandbox_id;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
-- Triggers fire by name: this one before that which locks the account's row.
CREATE TRIGGER add_usage_of_sandbox AFTER INSERT ON sandbox_events FOR EACH ROW EXECUTE FUNCTION add_usage_of_sandbox();

-- A snapshot is used from when it is ready until somebody asks for its end, or it is known to be lost. Snapshots have no events: their own row says it.
-- +goose StatementBegin
CREATE FUNCTION add_usage_of_snapshot() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed_at timestamptz;
    was boolean := TG_OP <> 'INSERT' AND OLD.state = 'ready';
    now boolean := TG_OP <> 'DELETE' AND NEW.state = 'ready';
BEGIN
    IF was = now THEN
        RETURN NULL;
    END IF;
    changed_at := end_usage(coalesce(NEW.sandbox_id, OLD.sandbox_id), coalesce(NEW.id, OLD.id), clock_timestamp());
    IF now THEN
        INSERT INTO usage_periods (account_id, sandbox_id, snapshot_id, kind, stored_mib, begun_at)
        VALUES (NEW.account_id, NEW.sandbox_id, NEW.id, 'snapshot', NEW.disk_mib + NEW.memory_mib, changed_at);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER add_usage_of_snapshot AFTER INSERT OR UPDATE OF state OR DELETE ON snapshots FOR EACH ROW EXECUTE FUNCTION add_usage_of_snapshot();

-- What has happened before there were periods. Each event begins one, which ends with the next event.
INSERT INTO usage_periods (account_id, sandbox_id, kind, vcpus, memory_mib, stored_mib, begun_at, ended_at)
SELECT s.account_id, s.id, e.kind, CASE WHEN e.kind = 'running' THEN s.vcpus ELSE 0 END, CASE WHEN e.kind = 'running' THEN s.memory_mib ELSE 0 END,
    CASE WHEN e.kind = 'running' THEN 0 ELSE s.disk_mib + s.memory_mib END, e.begun_at, e.ended_at
FROM (
    SELECT sandbox_id, generation, usage_kind(to_state) AS kind, max(at) OVER before AS begun_at,
        -- The next one begins where this one ends, also where a clock was set back.
        CASE WHEN lead(at) OVER whole IS NOT NULL THEN greatest(max(at) OVER before, lead(at) OVER whole) END AS ended_at
    FROM sandbox_events
    WINDOW whole AS (PARTITION BY sandbox_id ORDER BY generation), before AS (PARTITION BY sandbox_id ORDER BY generation ROWS UNBOUNDED PRECEDING)
) AS e JOIN sandboxes s ON s.id = e.sandbox_id
WHERE e.kind IS NOT NULL
ORDER BY s.id, e.generation;
INSERT INTO usage_periods (account_id, sandbox_id, snapshot_id, kind, stored_mib, begun_at)
SELECT account_id, sandbox_id, id, 'snapshot', disk_mib + memory_mib, updated_at FROM snapshots WHERE state = 'ready';

-- +goose Down
DROP TRIGGER add_usage_of_snapshot ON snapshots;
DROP TRIGGER add_usage_of_sandbox ON sandbox_events;
DROP FUNCTION add_usage_of_snapshot();
DROP FUNCTION add_usage_of_sandbox();
DROP FUNCTION end_usage(text, text, timestamptz);
DROP FUNCTION usage_kind(sandbox_state);
DROP TABLE usage_periods;
