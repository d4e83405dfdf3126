-- +goose Up

-- What is to be told to Lago, or was: the usage of one period in one hour, or until its end, in one metric. A row is never changed in what it says: docs/adr/0026-usage.md.
CREATE TABLE usage_outbox (
    transaction_id text PRIMARY KEY, -- by which Lago knows a repetition
    account_id     text NOT NULL,
    sandbox_id     text NOT NULL,
    snapshot_id    text,
    kind           text NOT NULL,
    metric         text NOT NULL CHECK (metric IN ('vcpu', 'memory', 'stored')),
    begun_at       timestamptz NOT NULL,
    ended_at       timestamptz NOT NULL,
    value          text NOT NULL, -- a decimal number
    state          text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'refused')), -- refused: Lago does not want it, until somebody has it tried again
    attempts       integer NOT NULL DEFAULT 0,
    next_at        timestamptz NOT NULL DEFAULT clock_timestamp(), -- no try before; while one is under way, when another worker takes it over
    error          text NOT NULL DEFAULT '', -- of the last try that failed
    delivered_at   timestamptz
);
CREATE INDEX usage_outbox_pending ON usage_outbox (next_at) WHERE state = 'pending';
CREATE INDEX usage_outbox_refused ON usage_outbox (begun_at) WHERE state = 'refused';
CREATE INDEX usage_outbox_delivered ON usage_outbox (delivered_at) WHERE state = 'delivered';

-- Periods of which something may be cut off for it.
CREATE INDEX usage_periods_ended_uncut ON usage_periods (id) WHERE ended_at IS NOT NULL AND (cut_at IS NULL OR cut_at < ended_at);
CREATE INDEX usage_periods_lasting ON usage_periods (coalesce(cut_at, begun_at)) WHERE ended_at IS NULL;

-- +goose Down
DROP INDEX usage_periods_lasting;
DROP INDEX usage_periods_ended_uncut;
DROP TABLE usage_outbox;
