-- +goose Up

-- Where an account has events of its sandboxes sent to: docs/adr/0027-webhooks.md.
CREATE TABLE webhooks (
    id            text PRIMARY KEY CHECK (id ~ '^wh-[0-9a-f]{8}$'),
    account_id    text NOT NULL REFERENCES accounts (id),
    url           text NOT NULL CHECK (url <> ''),
    events        text[] NOT NULL, -- types of events; empty for all
    secret        bytea NOT NULL CHECK (octet_length(secret) = 32), -- signing needs itself, not its hash
    old_secret    bytea CHECK (octet_length(old_secret) = 32), -- the one before the last rotation
    old_until     timestamptz, -- what is sent is signed with it, too
    enabled       boolean NOT NULL DEFAULT true,
    cursor        bigint NOT NULL, -- id of the last event that was looked at for it
    failures      integer NOT NULL DEFAULT 0, -- attempts that have failed since the last one that did not
    failing_since timestamptz,
    failure       text NOT NULL DEFAULT '', -- the last one
    retry_at      timestamptz, -- nothing is sent before
    lease         text, -- of the replica that sends
    lease_until   timestamptz, -- or when the last one ended
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((old_secret IS NULL) = (old_until IS NULL))
);
CREATE INDEX webhooks_by_account ON webhooks (account_id, created_at DESC, id DESC);

-- What is to be sent, and what came of it.
CREATE TABLE webhook_deliveries (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              text NOT NULL UNIQUE CHECK (id ~ '^msg-[0-9a-f]{16}$'), -- the receiver knows by it what it has already
    webhook_id      text NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id        bigint REFERENCES sandbox_events (id), -- null for a ping
    sandbox_id      text, -- of the event
    state           text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    status          integer, -- of the last answer; null where there was none
    error           text NOT NULL DEFAULT '', -- of the last attempt
    first_at        timestamptz, -- of the first attempt; it is given up some time after that
    last_at         timestamptz,
    next_at         timestamptz DEFAULT now(), -- of the next attempt
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (webhook_id, event_id),
    CHECK ((state = 'pending') = (next_at IS NOT NULL))
);
CREATE INDEX webhook_deliveries_by_webhook ON webhook_deliveries (webhook_id, seq);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (webhook_id, seq) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (last_at) WHERE state <> 'pending';

-- +goose Down
DROP TABLE webhook_deliveries;
DROP TABLE webhooks;
