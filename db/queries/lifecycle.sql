-- A request needs the guest: the sandbox counts as used for a while from now on. It waits for a change of its state that is under way.
-- name: UseSandbox :one
UPDATE sandboxes SET used_until = greatest(used_until, clock_timestamp() + make_interval(secs => @lease_seconds::float8))
WHERE id = @id AND account_id = @account_id
RETURNING *;

-- The same for many that are in use still. One that somebody changes right now is left to the next time.
-- name: RenewUses :exec
WITH used AS (
    SELECT id FROM sandboxes
    WHERE id = ANY (@ids::text[]) AND auto_pause_seconds > 0 AND state = 'running'
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE sandboxes SET used_until = greatest(used_until, clock_timestamp() + make_interval(secs => @lease_seconds::float8))
FROM used WHERE sandboxes.id = used.id;

-- Whoever claims a sandbox has it for himself until look_at, which is now and the time of the claim.
-- name: ClaimDue :many
UPDATE sandboxes SET look_at = clock_timestamp() + make_interval(secs => @claim_seconds::float8)
WHERE id IN (
    SELECT s.id FROM sandboxes s WHERE s.look_at <= clock_timestamp()
    ORDER BY s.look_at LIMIT @max_rows FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING *;

-- Unless somebody has said meanwhile that it is to be looked at sooner.
-- name: LookAgain :exec
UPDATE sandboxes SET look_at = sqlc.narg('at') WHERE id = @id AND look_at = @claimed::timestamptz;

-- name: PostponeLook :exec
UPDATE sandboxes SET look_at = clock_timestamp() + make_interval(secs => @wait_seconds::float8)
WHERE id = @id AND look_at IS NOT NULL;

-- name: LockSandbox :one
SELECT * FROM sandboxes WHERE id = @id FOR NO KEY UPDATE;

-- name: Now :one
SELECT clock_timestamp()::timestamptz AS now;

-- Idle time counts from when it is first wanted, a timeout from when it is set.
-- name: SetLifecycle :one
WITH changed AS (
    UPDATE sandboxes SET
        used_until = CASE WHEN auto_pause_seconds = 0 THEN greatest(used_until, clock_timestamp()) ELSE used_until END,
        auto_pause_seconds = @auto_pause_seconds,
        auto_hibernate_seconds = @auto_hibernate_seconds,
        auto_destroy_seconds = @auto_destroy_seconds,
        timeout_seconds = @timeout_seconds,
        on_timeout = @on_timeout,
        timeout_at = CASE WHEN NOT @restart_timeout::bool THEN timeout_at
            WHEN @timeout_seconds > 0 THEN clock_timestamp() + make_interval(secs => @timeout_seconds) END,
        look_at = CASE WHEN state IN ('running', 'paused', 'hibernated', 'error') THEN clock_timestamp() END
    WHERE sandboxes.id = @id
    RETURNING sandboxes.*
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'sandbox.lifecycle', id, 'ok', @request_id FROM changed
)
SELECT * FROM changed;

-- What was found of the snapshot that a sandbox sleeps in. Where that is news of damage, or of its end, it is why the sandbox is as it is, and an event.
-- name: NoteScrub :many
WITH noted AS (
    UPDATE sandboxes SET verified_at = sqlc.narg('verified_at'), damage = @damage,
        reason = CASE WHEN damage = @damage THEN reason ELSE @damage END,
        generation = CASE WHEN damage = @damage THEN generation ELSE generation + 1 END
    WHERE sandboxes.id = @id AND sandboxes.state IN ('paused', 'hibernated') AND sandboxes.generation = @generation
    RETURNING account_id, id, state, generation, reason, generation > @generation AS news
), event AS (
    INSERT INTO sandbox_events (account_id, sandbox_id, from_state, to_state, reason, actor, operation, generation)
    SELECT account_id, id, state, state, reason, @actor, @operation, generation FROM noted WHERE news
)
SELECT id FROM noted;
