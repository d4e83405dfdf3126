-- +goose Up

-- What an operator wants of a host, and what its creates say of it. Its state says whether it can be reached, and since when it cannot.
ALTER TABLE hosts
    ADD COLUMN draining boolean NOT NULL DEFAULT false, -- it takes no new sandboxes, and those that sleep leave it
    ADD COLUMN evict boolean NOT NULL DEFAULT false, -- then those that run are paused, too
    ADD COLUMN quarantine text NOT NULL DEFAULT '', -- why it takes no new sandboxes until a probe succeeds; '' while it does
    ADD COLUMN quarantined_at timestamptz,
    ADD COLUMN down_at timestamptz; -- null while it can be reached

-- removed: by an operator, for good.
ALTER TABLE hosts DROP CONSTRAINT hosts_state_check;
ALTER TABLE hosts ADD CONSTRAINT hosts_state_check CHECK (state IN ('ready', 'unreachable', 'replaced', 'removed'));
DROP INDEX hosts_by_address;
CREATE UNIQUE INDEX hosts_by_address ON hosts (address) WHERE state NOT IN ('replaced', 'removed');

-- +goose Down
UPDATE hosts SET state = 'replaced' WHERE state = 'removed';
DROP INDEX hosts_by_address;
CREATE UNIQUE INDEX hosts_by_address ON hosts (address) WHERE state <> 'replaced';
ALTER TABLE hosts DROP CONSTRAINT hosts_state_check;
ALTER TABLE hosts ADD CONSTRAINT hosts_state_check CHECK (state IN ('ready', 'unreachable', 'replaced'));
ALTER TABLE hosts
    DROP COLUMN draining,
    DROP COLUMN evict,
    DROP COLUMN quarantine,
    DROP COLUMN quarantined_at,
    DROP COLUMN down_at;
