-- +goose Up

-- What a sandbox was made from, where it was not its template. The snapshot may be gone by now.
ALTER TABLE sandboxes
    ADD COLUMN parent_id text REFERENCES sandboxes (id), -- the sandbox that it was forked from
    ADD COLUMN snapshot_id text;

-- Snapshots of sandboxes that were asked for. They outlive their sandboxes, which stay as rows.
CREATE TABLE snapshots (
    id         text PRIMARY KEY CHECK (id ~ '^snap-[0-9a-f]{8}$'),
    account_id text NOT NULL REFERENCES accounts (id),
    host_id    text NOT NULL REFERENCES hosts (id), -- on whose disk it lies
    sandbox_id text NOT NULL REFERENCES sandboxes (id),
    parent_id  text, -- the snapshot before it: of the same sandbox, or that which its sandbox was made from. It may be gone
    name       text NOT NULL CHECK (name <> ''),
    template   text NOT NULL,
    vcpus      integer NOT NULL,
    memory_mib integer NOT NULL,
    disk_mib   integer NOT NULL,
    network    jsonb NOT NULL, -- the policy of its sandbox at that time
    state      text NOT NULL CHECK (state IN ('creating', 'ready', 'deleting', 'error')),
    reason     text NOT NULL DEFAULT '',
    bytes      bigint NOT NULL DEFAULT 0, -- that it takes of the disk at most; it may share blocks with others
    operation  text NOT NULL,
    deadline   timestamptz, -- of 'creating'
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX snapshots_by_account ON snapshots (account_id, created_at DESC, id DESC);
CREATE INDEX snapshots_by_host ON snapshots (host_id);
CREATE INDEX snapshots_by_sandbox ON snapshots (sandbox_id, created_at DESC);

-- +goose Down
DROP TABLE snapshots;
ALTER TABLE sandboxes
    DROP COLUMN parent_id,
    DROP COLUMN snapshot_id;
