-- +goose Up

-- What an account may have at a time, null for without limit, and what it has. Why there are counters and a trigger, and the order of locks that they
-- need: docs/adr/0023-pools.md.
ALTER TABLE accounts
    ADD COLUMN pool_vcpus bigint CHECK (pool_vcpus >= 0),
    ADD COLUMN pool_memory_mib bigint CHECK (pool_memory_mib >= 0),
    ADD COLUMN pool_disk_mib bigint CHECK (pool_disk_mib >= 0),
    ADD COLUMN pool_sandboxes bigint CHECK (pool_sandboxes >= 0),
    ADD COLUMN used_vcpus bigint NOT NULL DEFAULT 0,
    ADD COLUMN used_memory_mib bigint NOT NULL DEFAULT 0,
    ADD COLUMN used_disk_mib bigint NOT NULL DEFAULT 0,
    ADD COLUMN used_sandboxes bigint NOT NULL DEFAULT 0,
    ADD COLUMN awaited_until timestamptz; -- until then somebody may wait for room in the pool, and is told when there is some

-- Whether a sandbox has processors and memory, and counts as running. One that is being stopped has what it had before that.
-- +goose StatementBegin
CREATE FUNCTION is_awake(state sandbox_state) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state IN ('starting', 'running', 'pausing', 'resuming')
$$;
-- +goose StatementEnd

-- Whether it has a disk.
-- +goose StatementBegin
CREATE FUNCTION is_kept(state sandbox_state) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state IN ('starting', 'running', 'pausing', 'resuming', 'paused', 'hibernating', 'hibernated')
$$;
-- +goose StatementEnd

-- Adds to what an account has, and tells whoever waits for room of what has become less.
-- +goose StatementBegin
CREATE FUNCTION count_in_pool(account text, vcpus bigint, memory_mib bigint, disk_mib bigint, sandboxes bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    awaited timestamptz;
BEGIN
    IF vcpus = 0 AND memory_mib = 0 AND disk_mib = 0 AND sandboxes = 0 THEN
        RETURN;
    END IF;
    UPDATE accounts SET used_vcpus = used_vcpus + vcpus, used_memory_mib = used_memory_mib + memory_mib,
        used_disk_mib = used_disk_mib + disk_mib, used_sandboxes = used_sandboxes + sandboxes
    WHERE id = account RETURNING awaited_until INTO awaited;
    IF awaited > clock_timestamp() AND least(vcpus, memory_mib, disk_mib, sandboxes) < 0 THEN
        PERFORM pg_notify('wrenn_pool', account);
    END IF;
END $$;
-- +goose StatementEnd

-- Every change of a sandbox's state is an event. It is counted where the event is written, so that no statement can forget it.
-- +goose StatementBegin
CREATE FUNCTION count_sandbox_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sb sandboxes%ROWTYPE;
    was sandbox_state := NEW.from_state;
    now sandbox_state := NEW.to_state;
    awake integer;
    kept integer;
BEGIN
    IF was = 'stopping' OR now = 'stopping' THEN
        IF now = 'stopping' THEN
            RETURN NULL;
        END IF;
        SELECT from_state INTO was FROM sandbox_events WHERE sandbox_id = NEW.sandbox_id AND generation = NEW.generation - 1;
    END IF;
    awake := coalesce(is_awake(now), false)::integer - coalesce(is_awake(was), false)::integer;
    kept := coalesce(is_kept(now), false)::integer - coalesce(is_kept(was), false)::integer;
    IF awake = 0 AND kept = 0 THEN
        RETURN NULL;
    END IF;
    SELECT * INTO sb FROM sandboxes WHERE id = NEW.sandbox_id;
    PERFORM count_in_pool(sb.account_id, awake * sb.vcpus, awake * sb.memory_mib, kept * sb.disk_mib, awake);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER count_sandbox_event AFTER INSERT ON sandbox_events FOR EACH ROW EXECUTE FUNCTION count_sandbox_event();

-- A snapshot takes disk, for its memory too, until it is gone or known to be lost.
-- +goose StatementBegin
CREATE FUNCTION count_snapshot() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was bigint := 0;
    now bigint := 0;
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.state <> 'error' THEN
        was := OLD.disk_mib + OLD.memory_mib;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.state <> 'error' THEN
        now := NEW.disk_mib + NEW.memory_mib;
    END IF;
    PERFORM count_in_pool(coalesce(NEW.account_id, OLD.account_id), 0, 0, now - was, 0);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER count_snapshot AFTER INSERT OR UPDATE OF state OR DELETE ON snapshots FOR EACH ROW EXECUTE FUNCTION count_snapshot();

UPDATE accounts a SET used_vcpus = s.vcpus, used_memory_mib = s.memory_mib, used_disk_mib = s.disk_mib, used_sandboxes = s.sandboxes
FROM (
    SELECT account_id, coalesce(sum(vcpus) FILTER (WHERE is_awake(had)), 0) AS vcpus, coalesce(sum(memory_mib) FILTER (WHERE is_awake(had)), 0) AS memory_mib,
        coalesce(sum(disk_mib) FILTER (WHERE is_kept(had)), 0) AS disk_mib, count(*) FILTER (WHERE is_awake(had)) AS sandboxes
    FROM (
        SELECT s.*, CASE WHEN s.state = 'stopping' THEN e.from_state ELSE s.state END AS had
        FROM sandboxes s LEFT JOIN sandbox_events e ON e.sandbox_id = s.id AND e.generation = s.generation
        WHERE s.state <> 'stopped'
    ) AS live
    GROUP BY account_id
) AS s
WHERE a.id = s.account_id;
UPDATE accounts a SET used_disk_mib = used_disk_mib + s.disk_mib
FROM (SELECT account_id, sum(disk_mib + memory_mib) AS disk_mib FROM snapshots WHERE state <> 'error' GROUP BY account_id) AS s
WHERE a.id = s.account_id;

-- What a key may do, in the words of internal/auth, and until when; null for ever. After a rotation the key before works on until old_expires_at.
ALTER TABLE api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{admin}',
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN old_hash bytea UNIQUE CHECK (octet_length(old_hash) = 32),
    ADD COLUMN old_expires_at timestamptz,
    ADD CHECK ((old_hash IS NULL) = (old_expires_at IS NULL));
ALTER TABLE api_keys ALTER COLUMN scopes DROP DEFAULT;

-- +goose Down
ALTER TABLE api_keys
    DROP COLUMN scopes,
    DROP COLUMN expires_at,
    DROP COLUMN old_hash,
    DROP COLUMN old_expires_at;
DROP TRIGGER count_snapshot ON snapshots;
DROP TRIGGER count_sandbox_event ON sandbox_events;
DROP FUNCTION count_snapshot();
DROP FUNCTION count_sandbox_event();
DROP FUNCTION count_in_pool(text, bigint, bigint, bigint, bigint);
DROP FUNCTION is_kept(sandbox_state);
DROP FUNCTION is_awake(sandbox_state);
ALTER TABLE accounts
    DROP COLUMN pool_vcpus,
    DROP COLUMN pool_memory_mib,
    DROP COLUMN pool_disk_mib,
    DROP COLUMN pool_sandboxes,
    DROP COLUMN used_vcpus,
    DROP COLUMN used_memory_mib,
    DROP COLUMN used_disk_mib,
    DROP COLUMN used_sandboxes,
    DROP COLUMN awaited_until;
