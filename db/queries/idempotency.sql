-- A key that is new, has expired, was released, or whose attempt has not renewed its lease, is the caller's. No row: it is not.
-- name: ClaimKey :one
INSERT INTO idempotency_keys AS k (account_id, key, fingerprint, state, claim, lease_until, expires_at)
VALUES (@account_id, @key, @fingerprint, 'running', @claim, clock_timestamp() + make_interval(secs => @lease_seconds::float8),
    clock_timestamp() + make_interval(secs => @keep_seconds::float8))
ON CONFLICT (account_id, key) DO UPDATE SET
    fingerprint = excluded.fingerprint, state = 'running', claim = excluded.claim, lease_until = excluded.lease_until,
    cut_off = k.expires_at > clock_timestamp() AND k.state = 'running',
    targets = CASE WHEN k.expires_at > clock_timestamp() THEN k.targets ELSE '{}' END,
    expires_at = CASE WHEN k.expires_at > clock_timestamp() THEN k.expires_at ELSE excluded.expires_at END,
    status = NULL, headers = NULL, body = NULL
WHERE k.expires_at <= clock_timestamp()
    OR k.fingerprint = excluded.fingerprint AND (k.state = 'released' OR k.state = 'running' AND k.lease_until < clock_timestamp())
RETURNING k.targets, k.cut_off;

-- name: ClaimedKey :one
SELECT * FROM idempotency_keys WHERE account_id = @account_id AND key = @key;

-- name: RenewClaim :execrows
UPDATE idempotency_keys SET lease_until = clock_timestamp() + make_interval(secs => @lease_seconds::float8)
WHERE account_id = @account_id AND key = @key AND claim = @claim AND state = 'running';

-- Runs in the transaction that inserts the targets.
-- name: BindClaim :execrows
UPDATE idempotency_keys SET targets = @targets
WHERE account_id = @account_id AND key = @key AND claim = @claim AND state = 'running';

-- name: FinishClaim :exec
UPDATE idempotency_keys SET state = @state, status = sqlc.narg('status'), headers = sqlc.narg('headers'), body = sqlc.narg('body')
WHERE account_id = @account_id AND key = @key AND claim = @claim AND state = 'running';

-- name: SweepKeys :execrows
DELETE FROM idempotency_keys WHERE (account_id, key) IN (
    SELECT k.account_id, k.key FROM idempotency_keys k WHERE k.expires_at <= clock_timestamp() ORDER BY k.expires_at LIMIT @max_rows
);
