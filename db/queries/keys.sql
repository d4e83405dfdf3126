-- name: EnsureAccount :one
WITH made AS (
    INSERT INTO accounts (id, name) VALUES (@id, @name) ON CONFLICT (name) DO NOTHING RETURNING id
)
SELECT id FROM made UNION ALL SELECT id FROM accounts WHERE name = @name LIMIT 1;

-- name: InsertKey :exec
WITH made AS (
    INSERT INTO api_keys (id, account_id, hash, prefix, name)
    VALUES (@id, @account_id, @hash, @prefix, @name)
    RETURNING id, account_id
)
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
SELECT account_id, @actor, 'key.create', id, 'ok', @request_id FROM made;

-- name: RevokeKey :one
WITH revoked AS (
    UPDATE api_keys SET revoked_at = now() WHERE api_keys.id = @id AND revoked_at IS NULL
    RETURNING api_keys.id, api_keys.account_id, api_keys.hash
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'key.revoke', id, 'ok', @request_id FROM revoked
)
SELECT hash FROM revoked;

-- name: KeyByHash :one
SELECT id, account_id FROM api_keys WHERE hash = @hash AND revoked_at IS NULL;

-- name: ListKeys :many
SELECT k.id, k.prefix, k.name, a.name AS account, k.created_at, k.last_used_at, k.revoked_at
FROM api_keys k JOIN accounts a ON a.id = k.account_id
ORDER BY k.created_at, k.id;

-- name: TouchKeys :exec
UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)
FROM (SELECT unnest(@ids::text[]) AS id, unnest(@times::timestamptz[]) AS at) AS used
WHERE api_keys.id = used.id;

-- name: EnsureSigningKey :one
WITH made AS (
    INSERT INTO signing_keys (name, key) VALUES (@name, @key) ON CONFLICT (name) DO NOTHING RETURNING key
)
SELECT key FROM made UNION ALL SELECT key FROM signing_keys WHERE name = @name LIMIT 1;
