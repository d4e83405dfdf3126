-- name: EnsureAccount :one
WITH made AS (
    INSERT INTO accounts (id, name) VALUES (@id, @name) ON CONFLICT (name) DO NOTHING RETURNING id
)
SELECT id FROM made UNION ALL SELECT id FROM accounts WHERE name = @name LIMIT 1;

-- name: InsertKey :exec
WITH made AS (
    INSERT INTO api_keys (id, account_id, hash, prefix, name, scopes, expires_at)
    VALUES (@id, @account_id, @hash, @prefix, @name, @scopes, sqlc.narg('expires_at'))
    RETURNING id, account_id
)
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
SELECT account_id, @actor, 'key.create', id, 'ok', @request_id FROM made;

-- Both of its secrets end, if it has two.
-- name: RevokeKey :one
WITH revoked AS (
    UPDATE api_keys SET revoked_at = now()
    WHERE api_keys.id = @id AND revoked_at IS NULL AND (sqlc.narg('account_id')::text IS NULL OR account_id = sqlc.narg('account_id'))
    RETURNING id, account_id, hash, old_hash
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'key.revoke', id, 'ok', @request_id FROM revoked
)
SELECT hash, old_hash FROM revoked
UNION ALL -- This very request has revoked it, and its connection broke before the answer.
SELECT hash, old_hash FROM api_keys
WHERE api_keys.id = @id AND revoked_at IS NOT NULL AND (sqlc.narg('account_id')::text IS NULL OR account_id = sqlc.narg('account_id'))
  AND EXISTS (SELECT FROM audit_events e WHERE e.target = @id AND e.action = 'key.revoke' AND e.request_id = @request_id AND @request_id <> '');

-- name: RotateKey :exec
WITH rotated AS (
    UPDATE api_keys SET hash = @hash, prefix = @prefix, old_hash = hash, old_expires_at = clock_timestamp() + make_interval(secs => @grace_seconds::float8)
    WHERE api_keys.id = @id
    RETURNING id, account_id
)
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
SELECT account_id, @actor, 'key.rotate', id, 'ok', @request_id FROM rotated;

-- name: KeyByHash :one
SELECT id, account_id, scopes, expires_at, old_expires_at, (hash = @hash)::bool AS newest FROM api_keys
WHERE (hash = @hash OR old_hash = @hash AND old_expires_at > clock_timestamp()) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- Until the transaction ends the key is what it is.
-- name: LockKey :one
SELECT sqlc.embed(k), a.name AS account FROM api_keys k JOIN accounts a ON a.id = k.account_id
WHERE k.id = @id AND k.account_id = @account_id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
FOR UPDATE OF k;

-- name: ListKeys :many
SELECT sqlc.embed(k), a.name AS account
FROM api_keys k JOIN accounts a ON a.id = k.account_id
ORDER BY k.created_at, k.id;

-- name: ListKeysOfAccount :many
SELECT sqlc.embed(k), a.name AS account
FROM api_keys k JOIN accounts a ON a.id = k.account_id
WHERE k.account_id = @account_id AND (sqlc.narg('before')::timestamptz IS NULL OR (k.created_at, k.id) < (sqlc.narg('before'), @before_id::text))
ORDER BY k.created_at DESC, k.id DESC
LIMIT @max_rows;

-- name: TouchKeys :exec
UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@times::timestamptz[]) AS at) AS used
WHERE api_keys.id = used.id;

-- name: EnsureSigningKey :one
WITH made AS (
    INSERT INTO signing_keys (name, key) VALUES (@name, @key) ON CONFLICT (name) DO NOTHING RETURNING key
)
SELECT key FROM made UNION ALL SELECT key FROM signing_keys WHERE name = @name LIMIT 1;
