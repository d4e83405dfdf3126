-- +goose Up

-- Whose event it is, so that an account's events are found by one index.
ALTER TABLE sandbox_events ADD COLUMN account_id text;
UPDATE sandbox_events SET account_id = s.account_id FROM sandboxes s WHERE s.id = sandbox_id;
ALTER TABLE sandbox_events ALTER COLUMN account_id SET NOT NULL;
CREATE INDEX sandbox_events_by_account ON sandbox_events (account_id, id);

-- +goose Down
ALTER TABLE sandbox_events DROP COLUMN account_id;
