-- +goose Up

-- Every state of the design, also those that no code reaches yet: a value cannot be
-- added to an enum and used in the same transaction.
CREATE TYPE sandbox_state AS ENUM (
    'pending', 'starting', 'running', 'pausing', 'paused', 'resuming',
    'hibernating', 'hibernated', 'stopping', 'stopped', 'error'
);

CREATE TABLE accounts (
    id         text PRIMARY KEY CHECK (id ~ '^acc-[0-9a-f]{8}$'),
    name       text NOT NULL UNIQUE CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id           text PRIMARY KEY CHECK (id ~ '^key-[0-9a-f]{8}$'),
    account_id   text NOT NULL REFERENCES accounts (id),
    hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32), -- SHA-256 of the key
    prefix       text NOT NULL, -- the key's first characters, to tell keys apart
    name         text NOT NULL CHECK (name <> ''),
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz, -- up to some seconds behind
    revoked_at   timestamptz
);
CREATE INDEX api_keys_by_account ON api_keys (account_id, created_at);

CREATE TABLE hosts (
    id             text PRIMARY KEY CHECK (id ~ '^host-[0-9a-f]{8}$'),
    name           text NOT NULL,
    address        text NOT NULL,
    -- replaced: another host answers at its address, and it will not come back
    state          text NOT NULL CHECK (state IN ('ready', 'unreachable', 'replaced')),
    agent_version  text NOT NULL,
    driver         text NOT NULL,
    driver_version text NOT NULL,
    accelerator    text NOT NULL,
    vcpus          integer NOT NULL,
    memory_mib     bigint NOT NULL,
    disk_mib       bigint NOT NULL,
    reflinks       boolean NOT NULL,
    templates      jsonb NOT NULL,
    connects       bigint NOT NULL DEFAULT 1, -- how often a control plane has connected to it
    created_at     timestamptz NOT NULL DEFAULT now(),
    connected_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX hosts_by_address ON hosts (address) WHERE state <> 'replaced';

CREATE TABLE sandboxes (
    id         text PRIMARY KEY CHECK (id ~ '^sb-[0-9a-f]{8}$'),
    account_id text NOT NULL REFERENCES accounts (id),
    host_id    text REFERENCES hosts (id),
    name       text NOT NULL,
    template   text NOT NULL,
    vcpus      integer NOT NULL,
    memory_mib integer NOT NULL,
    disk_mib   integer NOT NULL,
    metadata   jsonb NOT NULL,
    state      sandbox_state NOT NULL,
    generation bigint NOT NULL, -- grows by one with every change of state
    reason     text NOT NULL,
    operation  text NOT NULL, -- what made the last change of state: a request's id, or 'reconcile'
    deadline   timestamptz, -- of a state that should pass
    timings    jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX sandboxes_by_account ON sandboxes (account_id, created_at DESC, id DESC);
CREATE INDEX sandboxes_live_by_account ON sandboxes (account_id, created_at DESC, id DESC) WHERE state <> 'stopped';
CREATE INDEX sandboxes_live_by_host ON sandboxes (host_id) WHERE state <> 'stopped';
CREATE INDEX sandboxes_by_deadline ON sandboxes (deadline) WHERE deadline IS NOT NULL;

CREATE TABLE sandbox_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sandbox_id text NOT NULL REFERENCES sandboxes (id),
    from_state sandbox_state, -- null for the first
    to_state   sandbox_state NOT NULL,
    reason     text NOT NULL,
    actor      text NOT NULL, -- an API key's id, or 'system'
    operation  text NOT NULL,
    generation bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (sandbox_id, generation)
);

CREATE TABLE audit_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts (id),
    actor      text NOT NULL, -- an API key's id, 'operator' for the command line, or 'system'
    action     text NOT NULL, -- sandbox.create, sandbox.destroy, key.create, key.revoke
    target     text NOT NULL,
    outcome    text NOT NULL, -- accepted, then ok or an error's code
    request_id text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX audit_events_by_account ON audit_events (account_id, id);
CREATE INDEX audit_events_by_target ON audit_events (target, id);

-- +goose Down
DROP TABLE audit_events;
DROP TABLE sandbox_events;
DROP TABLE sandboxes;
DROP TABLE hosts;
DROP TABLE api_keys;
DROP TABLE accounts;
DROP TYPE sandbox_state;
