-- +goose Up

-- Where a sandbox's snapshot is stored, in the form of db/archive.go; null for one that was never hibernated. It stays when the sandbox goes on, until
-- the next one replaces it. Whether it is what the sandbox *is*, so that its host has at most a copy: from hibernated until it runs or is paused again.
ALTER TABLE sandboxes
    ADD COLUMN archive jsonb,
    ADD COLUMN cold boolean NOT NULL DEFAULT false;

-- Whether the host has an object store.
ALTER TABLE hosts ADD COLUMN archive boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE sandboxes
    DROP COLUMN archive,
    DROP COLUMN cold;
ALTER TABLE hosts DROP COLUMN archive;
