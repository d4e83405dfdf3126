-- The hash is random: where it is there already, the answer to an earlier try was lost.
-- name: InsertHostToken :one
WITH old AS (
    DELETE FROM host_tokens WHERE expires_at < now() - interval '30 days'
), made AS (
    INSERT INTO host_tokens (hash, host_id, expires_at)
    VALUES (@hash, sqlc.narg('host_id'), now() + make_interval(secs => @ttl_seconds::float8))
    ON CONFLICT (hash) DO NOTHING
    RETURNING host_id, created_at, expires_at
), audited AS (
    INSERT INTO host_audit_events (actor, action, target, outcome, detail, request_id)
    SELECT @actor, 'host.token', @token::text, 'ok', 'for ' || coalesce(host_id, 'a new host'), @request_id FROM made
)
SELECT created_at, expires_at FROM made UNION ALL SELECT created_at, expires_at FROM host_tokens WHERE hash = @hash LIMIT 1;

-- name: LockHostToken :one
SELECT host_tokens.*, (expires_at <= now())::bool AS expired FROM host_tokens WHERE hash = @hash FOR UPDATE;

-- The id of a token has the first 16 digits of its hash, so that the primary key finds it.
-- name: LockHostTokenByID :one
SELECT * FROM host_tokens WHERE hash BETWEEN decode(@digits::text, 'hex') AND decode(@digits::text || repeat('f', 48), 'hex') FOR UPDATE;

-- name: RevokeHostToken :exec
UPDATE host_tokens SET revoked_at = now() WHERE hash = @hash;

-- Those that can still be used. The digits of an id come before the hash that begins with them.
-- name: PageOfHostTokens :many
SELECT hash, host_id, created_at, expires_at FROM host_tokens
WHERE used_at IS NULL AND revoked_at IS NULL AND expires_at > now()
    AND (sqlc.narg('before')::timestamptz IS NULL OR (created_at, hash) < (sqlc.narg('before'), decode(@before_digits::text, 'hex')))
ORDER BY created_at DESC, hash DESC
LIMIT sqlc.narg('max_rows')::int;

-- name: SpendHostToken :exec
UPDATE host_tokens SET used_at = now(), used_by = @host_id::text WHERE hash = @hash;

-- Whether another host is at an address.
-- name: AddressTaken :one
SELECT EXISTS (SELECT 1 FROM hosts WHERE address = @address AND id <> @id AND state NOT IN ('replaced', 'removed'));

-- name: HostByID :one
SELECT * FROM hosts WHERE id = @id;

-- A host that joins has not said yet what it has. One that was removed may come back so, without what it held.
-- name: JoinHost :exec
INSERT INTO hosts (id, name, address, state, agent_version, driver, driver_version, accelerator, vcpus, memory_mib, disk_mib, reflinks, templates,
    connects, down_at, joined_at)
VALUES (@id, @name, @address, 'unreachable', '', '', '', '', 0, 0, 0, false, '[]', 0, now(), now())
ON CONFLICT (id) DO UPDATE SET address = excluded.address, joined_at = now(),
    state = CASE WHEN hosts.state IN ('removed', 'replaced') THEN 'unreachable' ELSE hosts.state END;

-- name: JoinedHosts :many
SELECT id, address FROM hosts WHERE joined_at IS NOT NULL AND state NOT IN ('replaced', 'removed') ORDER BY id;
