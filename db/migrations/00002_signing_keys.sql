-- +goose Up

-- Keys that all replicas of the control plane sign with. Each is made by the first that needs it.
CREATE TABLE signing_keys (
    name       text PRIMARY KEY CHECK (name <> ''),
    key        bytea NOT NULL CHECK (octet_length(key) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE signing_keys;
