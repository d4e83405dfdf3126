-- +goose Up

-- With each of them one host may join: its agent gets a certificate, and is connected to where it says that it listens.
CREATE TABLE host_tokens (
    hash       bytea PRIMARY KEY CHECK (octet_length(hash) = 32), -- SHA-256 of the token's secret part
    host_id    text, -- the only host that may use it; null for one that is new
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    used_by    text -- a host's id
);

-- Null for a host that a control plane was told of in its settings.
ALTER TABLE hosts ADD COLUMN joined_at timestamptz;

-- +goose Down
ALTER TABLE hosts DROP COLUMN joined_at;
DROP TABLE host_tokens;
