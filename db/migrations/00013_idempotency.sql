-- +goose Up

-- Requests with an Idempotency-Key, and the answers to them: docs/adr/0025-idempotency-keys.md.
CREATE TABLE idempotency_keys (
    account_id  text NOT NULL REFERENCES accounts (id),
    key         text NOT NULL CHECK (key <> ''),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32), -- SHA-256 of method, path, query and body
    state       text NOT NULL CHECK (state IN ('running', 'released', 'done')),
    claim       text NOT NULL, -- of the attempt that has it, or had it last
    lease_until timestamptz NOT NULL, -- of the attempt, unless it renews it
    cut_off     boolean NOT NULL DEFAULT false, -- the attempt before has come to no end
    targets     text[] NOT NULL DEFAULT '{}', -- what the attempts have inserted: ids of sandboxes, or of a snapshot
    status      integer, -- of the answer; null while there is none, and for one that was too large
    headers     jsonb,
    body        bytea,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (account_id, key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

-- +goose Down
DROP TABLE idempotency_keys;
