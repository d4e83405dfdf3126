-- Until the transaction ends no other webhook is made for the account.
-- name: LockAccountForWebhook :one
SELECT (SELECT count(*) FROM webhooks WHERE account_id = a.id)::bigint AS webhooks FROM accounts a WHERE a.id = @account_id FOR NO KEY UPDATE OF a;

-- It is told of what happens from now on: every event that is yet to be gets a greater id than the last one that was given.
-- name: InsertWebhook :one
WITH made AS (
    INSERT INTO webhooks (id, account_id, url, events, secret, enabled, cursor)
    VALUES (@id, @account_id, @url, @events, @secret, @enabled, coalesce(pg_sequence_last_value(pg_get_serial_sequence('sandbox_events', 'id')::regclass), 0))
    RETURNING *
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'webhook.create', id, 'ok', @request_id FROM made
)
SELECT * FROM made;

-- name: WebhookByID :one
SELECT * FROM webhooks WHERE id = @id AND account_id = @account_id;

-- name: ListWebhooks :many
SELECT * FROM webhooks
WHERE account_id = @account_id AND (sqlc.narg('before')::timestamptz IS NULL OR (created_at, id) < (sqlc.narg('before'), @before_id::text))
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- One that is enabled again begins anew, with what happens from now on and what had not been delivered. What it has failed with is of no interest any more.
-- name: ChangeWebhook :one
WITH changed AS (
    UPDATE webhooks AS w SET
        url = coalesce(sqlc.narg('url'), w.url), events = coalesce(sqlc.narg('events')::text[], w.events), enabled = coalesce(sqlc.narg('enabled'), w.enabled),
        cursor = CASE WHEN NOT w.enabled AND sqlc.narg('enabled') THEN coalesce(pg_sequence_last_value(pg_get_serial_sequence('sandbox_events', 'id')::regclass), 0) ELSE w.cursor END,
        failures = CASE WHEN sqlc.narg('enabled') IS NOT NULL OR sqlc.narg('url') IS NOT NULL THEN 0 ELSE w.failures END,
        failing_since = CASE WHEN sqlc.narg('enabled') IS NOT NULL OR sqlc.narg('url') IS NOT NULL THEN NULL ELSE w.failing_since END,
        failure = CASE WHEN sqlc.narg('enabled') IS NOT NULL OR sqlc.narg('url') IS NOT NULL THEN '' ELSE w.failure END,
        retry_at = CASE WHEN sqlc.narg('enabled') IS NOT NULL OR sqlc.narg('url') IS NOT NULL THEN NULL ELSE w.retry_at END
    WHERE w.id = @id AND w.account_id = @account_id
    RETURNING *
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'webhook.change', id, 'ok', @request_id FROM changed
)
SELECT * FROM changed;

-- name: RotateWebhook :one
WITH rotated AS (
    UPDATE webhooks SET old_secret = secret, old_until = clock_timestamp() + make_interval(secs => @grace_seconds::float8), secret = @secret
    WHERE webhooks.id = @id AND webhooks.account_id = @account_id
    RETURNING *
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'webhook.rotate', id, 'ok', @request_id FROM rotated
)
SELECT * FROM rotated;

-- name: DeleteWebhook :execrows
WITH deleted AS (
    DELETE FROM webhooks WHERE webhooks.id = @id AND webhooks.account_id = @account_id RETURNING id, account_id
)
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
SELECT account_id, @actor, 'webhook.delete', id, 'ok', @request_id FROM deleted;

-- name: ListDeliveries :many
SELECT d.*, e.to_state FROM webhook_deliveries d LEFT JOIN sandbox_events e ON e.id = d.event_id
WHERE d.webhook_id = @webhook_id AND (sqlc.narg('state')::text IS NULL OR d.state = sqlc.narg('state')) AND d.seq < @before
ORDER BY d.seq DESC
LIMIT @max_rows;

-- A webhook that waits for its next attempt does not any more.
-- name: InsertPing :one
WITH hook AS (
    UPDATE webhooks SET retry_at = NULL WHERE webhooks.id = @webhook_id AND webhooks.account_id = @account_id RETURNING webhooks.id, webhooks.account_id
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT hook.account_id, @actor, 'webhook.ping', hook.id, 'ok', @request_id FROM hook
)
INSERT INTO webhook_deliveries (id, webhook_id) SELECT @id, hook.id FROM hook
RETURNING *;

-- name: RetryDelivery :one
WITH again AS (
    UPDATE webhook_deliveries AS d SET state = 'pending', next_at = now(), first_at = NULL
    FROM webhooks w WHERE d.id = @id AND d.webhook_id = @webhook_id AND w.id = d.webhook_id AND w.account_id = @account_id
    RETURNING d.*, w.account_id
), hurried AS (
    UPDATE webhooks SET retry_at = NULL WHERE webhooks.id IN (SELECT webhook_id FROM again)
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT again.account_id, @actor, 'webhook.retry', again.webhook_id, 'ok', @request_id FROM again
)
SELECT again.id FROM again;

-- name: DeliveryByID :one
SELECT d.*, e.to_state FROM webhook_deliveries d LEFT JOIN sandbox_events e ON e.id = d.event_id
WHERE d.id = @id AND d.webhook_id = @webhook_id;

-- Webhooks that there is something to send for, those first that nobody has looked at for longest. Nobody else gets them before the lease has ended.
-- name: ClaimWebhooks :many
UPDATE webhooks SET lease = @lease, lease_until = clock_timestamp() + make_interval(secs => @lease_seconds::float8)
WHERE id IN (
    SELECT w.id FROM webhooks w
    WHERE w.enabled AND (w.lease_until IS NULL OR w.lease_until < clock_timestamp()) AND (w.retry_at IS NULL OR w.retry_at <= clock_timestamp())
        AND (EXISTS (SELECT 1 FROM sandbox_events e WHERE e.account_id = w.account_id AND e.id > w.cursor AND e.id <= @horizon)
            OR EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'pending' AND d.next_at <= clock_timestamp()))
    ORDER BY w.lease_until NULLS FIRST
    LIMIT @max_rows
    FOR UPDATE OF w SKIP LOCKED
)
RETURNING *;

-- A webhook as it is now, if it is still leased and to be sent to.
-- name: LeasedWebhook :one
SELECT * FROM webhooks WHERE id = @id AND lease = @lease::text AND enabled;

-- name: AnyWebhook :one
SELECT EXISTS (SELECT 1 FROM webhooks WHERE enabled);

-- Takes the next events of a webhook that is leased into what is to be sent, unless there is much of that already, and returns how many it has looked at.
-- name: QueueDeliveries :one
WITH hook AS (
    SELECT w.* FROM webhooks w
    WHERE w.id = @id AND w.lease = @lease::text
        AND (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'pending') < @max_pending::bigint
    FOR UPDATE
), next AS (
    SELECT e.id, e.sandbox_id, e.to_state FROM hook JOIN sandbox_events e ON e.account_id = hook.account_id AND e.id > hook.cursor AND e.id <= @horizon
    ORDER BY e.id
    LIMIT @max_rows
), queued AS (
    INSERT INTO webhook_deliveries (id, webhook_id, event_id, sandbox_id)
    SELECT 'msg-' || left(replace(gen_random_uuid()::text, '-', ''), 16), hook.id, next.id, next.sandbox_id FROM hook, next
    WHERE cardinality(hook.events) = 0 OR 'sandbox.' || next.to_state = ANY (hook.events)
    ORDER BY next.id
    ON CONFLICT (webhook_id, event_id) DO NOTHING
), moved AS (
    UPDATE webhooks SET cursor = greatest(cursor, CASE WHEN (SELECT count(*) FROM next) < @max_rows THEN @horizon ELSE (SELECT max(id) FROM next) END) -- it may have been enabled since the horizon
    WHERE id = (SELECT id FROM hook)
)
SELECT count(*)::bigint FROM next;

-- What can be sent now: of each sandbox the first that was not delivered. Those that have waited longest come first.
-- name: NextDeliveries :many
SELECT head.seq, head.id, head.attempts, e.id AS event_id, e.sandbox_id, e.from_state, e.to_state, e.reason, e.actor, e.operation, e.generation, e.at, head.created_at
FROM (
    SELECT DISTINCT ON (coalesce(d.sandbox_id, d.id)) d.* FROM webhook_deliveries d
    WHERE d.webhook_id = @webhook_id AND d.state = 'pending'
    ORDER BY coalesce(d.sandbox_id, d.id), d.seq
) AS head LEFT JOIN sandbox_events e ON e.id = head.event_id
WHERE head.next_at <= clock_timestamp()
ORDER BY head.next_at, head.seq
LIMIT @max_rows;

-- name: NoteDelivered :exec
UPDATE webhook_deliveries SET state = 'delivered', next_at = NULL, attempts = attempts + 1, status = @status, error = '',
    first_at = coalesce(first_at, clock_timestamp()), last_at = clock_timestamp()
WHERE id = @id AND state = 'pending';

-- One whose first attempt was too long ago is given up.
-- name: NoteNotDelivered :exec
UPDATE webhook_deliveries SET attempts = webhook_deliveries.attempts + 1, status = sqlc.narg('status'), error = @error, first_at = coalesce(first_at, clock_timestamp()), last_at = clock_timestamp(),
    state = CASE WHEN given_up THEN 'failed' ELSE 'pending' END,
    next_at = CASE WHEN given_up THEN NULL ELSE clock_timestamp() + make_interval(secs => @wait_seconds::float8) END
FROM (SELECT d.id AS of, coalesce(d.first_at < clock_timestamp() - make_interval(secs => @give_up_seconds::float8), false) AS given_up FROM webhook_deliveries d WHERE d.id = @id) AS now
WHERE webhook_deliveries.id = now.of AND state = 'pending' AND webhook_deliveries.attempts = @attempts;

-- Ends a round of the replica that has the lease.
-- name: ReleaseWebhook :exec
UPDATE webhooks SET lease = NULL, lease_until = clock_timestamp() WHERE id = @id AND lease = @lease::text;

-- name: NoteWebhookWorks :exec
UPDATE webhooks SET failures = 0, failing_since = NULL, failure = '', retry_at = NULL WHERE id = @id AND lease = @lease::text AND failures > 0;

-- A webhook that has failed for too long, or whose receiver wants no more, is disabled, with an audit event.
-- name: NoteWebhookFails :exec
WITH was AS (
    SELECT w.id, w.account_id, @gone::bool OR coalesce(w.failing_since < clock_timestamp() - make_interval(secs => @give_up_seconds::float8), false) AS ends
    FROM webhooks w WHERE w.id = @id AND w.lease = @lease::text AND w.enabled
), changed AS (
    UPDATE webhooks SET failures = webhooks.failures + 1, failing_since = coalesce(webhooks.failing_since, clock_timestamp()), failure = @failure, enabled = NOT was.ends,
        retry_at = clock_timestamp() + make_interval(secs => @wait_seconds::float8)
    FROM was WHERE webhooks.id = was.id
)
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
SELECT account_id, 'system', 'webhook.disable', id, 'ok', @request_id::text FROM was WHERE ends;

-- name: SweepDeliveries :execrows
DELETE FROM webhook_deliveries WHERE seq IN (
    SELECT seq FROM webhook_deliveries WHERE state <> 'pending' AND last_at < now() - make_interval(secs => @keep_seconds::float8)
    ORDER BY last_at
    LIMIT @max_rows
);
