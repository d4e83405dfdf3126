-- name: PoolOfAccount :one
SELECT pool_vcpus, pool_memory_mib, pool_disk_mib, pool_sandboxes, used_vcpus, used_memory_mib, used_disk_mib, used_sandboxes
FROM accounts WHERE id = @id;

-- Whoever gives something of the pool back after this tells it. It waits for what is under way on the account.
-- name: AwaitPool :exec
UPDATE accounts SET awaited_until = greatest(awaited_until, clock_timestamp() + make_interval(secs => @wait_seconds::float8)) WHERE id = @id;

-- name: ListAccounts :many
SELECT id, name, created_at, pool_vcpus, pool_memory_mib, pool_disk_mib, pool_sandboxes, used_vcpus, used_memory_mib, used_disk_mib, used_sandboxes
FROM accounts ORDER BY name;

-- name: InsertAccount :exec
WITH made AS (
    INSERT INTO accounts (id, name) VALUES (@id, @name) RETURNING id
)
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
SELECT id, @actor, 'account.create', id, 'ok', @request_id FROM made;

-- A limit that is not set stays. What waits for room is told that there may be some.
-- name: SetPool :one
WITH changed AS (
    UPDATE accounts SET
        pool_vcpus = CASE WHEN @set_vcpus::bool THEN sqlc.narg('vcpus')::bigint ELSE pool_vcpus END,
        pool_memory_mib = CASE WHEN @set_memory_mib::bool THEN sqlc.narg('memory_mib')::bigint ELSE pool_memory_mib END,
        pool_disk_mib = CASE WHEN @set_disk_mib::bool THEN sqlc.narg('disk_mib')::bigint ELSE pool_disk_mib END,
        pool_sandboxes = CASE WHEN @set_sandboxes::bool THEN sqlc.narg('sandboxes')::bigint ELSE pool_sandboxes END
    WHERE accounts.id = @id
    RETURNING accounts.id
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT id, @actor, 'account.pool', id, 'ok', @request_id FROM changed
)
SELECT pg_notify('wrenn_pool', id)::text FROM changed;

-- name: AccountByName :one
SELECT id FROM accounts WHERE name = @name;
