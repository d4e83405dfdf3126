-- Ended ones are of no interest, and many.
-- name: CountSandboxes :many
SELECT state, count(*)::bigint AS sandboxes FROM sandboxes WHERE state <> 'stopped' GROUP BY state;

-- What waits to be sent somewhere, and since when.
-- name: CountBacklogs :one
SELECT
    (SELECT count(*) FROM webhook_deliveries WHERE state = 'pending')::bigint AS deliveries,
    coalesce((SELECT extract(epoch FROM now() - min(created_at)) FROM webhook_deliveries WHERE state = 'pending'), 0)::float8 AS delivery_seconds,
    (SELECT count(*) FROM usage_outbox WHERE state = 'pending')::bigint AS usage,
    coalesce((SELECT extract(epoch FROM now() - min(ended_at)) FROM usage_outbox WHERE state = 'pending'), 0)::float8 AS usage_seconds,
    (SELECT count(*) FROM usage_outbox WHERE state = 'refused')::bigint AS usage_refused;
