-- +goose Up

-- What a VM takes of the host's memory at most, beside what its guest has. 0 until the host's agent says so.
ALTER TABLE hosts ADD COLUMN overhead_mib bigint NOT NULL DEFAULT 0 CHECK (overhead_mib >= 0);

-- +goose Down
ALTER TABLE hosts DROP COLUMN overhead_mib;
