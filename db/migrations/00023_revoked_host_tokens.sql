-- +goose Up

-- When an operator has revoked a token; a host that has joined with one before stays.
ALTER TABLE host_tokens ADD COLUMN revoked_at timestamptz;

-- +goose Down
ALTER TABLE host_tokens DROP COLUMN revoked_at;
