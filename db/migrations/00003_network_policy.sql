-- +goose Up

-- What a sandbox may reach, in the form of db/network.go. Its generation grows by one with every change, so that a host can
-- tell a new policy from an old one.
ALTER TABLE sandboxes
    ADD COLUMN network jsonb NOT NULL DEFAULT '{"internet": true}',
    ADD COLUMN network_generation bigint NOT NULL DEFAULT 1;

-- +goose Down
ALTER TABLE sandboxes
    DROP COLUMN network,
    DROP COLUMN network_generation;
