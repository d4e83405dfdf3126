-- +goose Up

-- The control planes that are alive. Each says so every few seconds.
CREATE TABLE replicas (
    id text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);

-- Which of them carries out what a sandbox's passing state is for; NULL in a state that lasts.
ALTER TABLE sandboxes ADD COLUMN carried_by text;

-- +goose Down
ALTER TABLE sandboxes DROP COLUMN carried_by;
DROP TABLE replicas;
