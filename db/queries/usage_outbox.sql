-- Periods that have ended, or have lasted beyond a full hour, and are not cut off up to there. Who ends one of them meanwhile waits for the transaction.
-- name: LockUncutPeriods :many
SELECT * FROM usage_periods
WHERE (ended_at IS NOT NULL AND (cut_at IS NULL OR cut_at < ended_at)) OR (ended_at IS NULL AND coalesce(cut_at, begun_at) < @hour::timestamptz)
LIMIT @max_rows
FOR NO KEY UPDATE SKIP LOCKED;

-- name: SetCuts :exec
UPDATE usage_periods SET cut_at = c.cut
FROM (SELECT unnest(@ids::bigint[]) AS id, unnest(@cuts::timestamptz[]) AS cut) AS c
WHERE usage_periods.id = c.id;

-- name: InsertUsageOutbox :exec
INSERT INTO usage_outbox (transaction_id, account_id, sandbox_id, snapshot_id, kind, metric, begun_at, ended_at, value)
SELECT n.transaction, n.account, n.sandbox, nullif(n.snapshot, ''), n.kind, n.metric, n.begin_at, n.end_at, n.val
FROM (SELECT unnest(@transactions::text[]) AS transaction, unnest(@accounts::text[]) AS account, unnest(@sandboxes::text[]) AS sandbox, unnest(@snapshots::text[]) AS snapshot,
    unnest(@kinds::text[]) AS kind, unnest(@metrics::text[]) AS metric, unnest(@begins::timestamptz[]) AS begin_at, unnest(@ends::timestamptz[]) AS end_at,
    unnest(@vals::text[]) AS val) AS n
ON CONFLICT DO NOTHING;

-- Nobody else gets them until the claim has passed.
-- name: ClaimUsageOutbox :many
UPDATE usage_outbox SET attempts = attempts + 1, next_at = clock_timestamp() + make_interval(secs => @claim_seconds::float8)
WHERE transaction_id IN (
    SELECT o.transaction_id FROM usage_outbox o WHERE o.state = 'pending' AND o.next_at <= clock_timestamp()
    ORDER BY o.next_at LIMIT @max_rows FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING *;

-- It is true whatever another worker that had it before has heard.
-- name: NoteUsageDelivered :exec
UPDATE usage_outbox SET state = 'delivered', delivered_at = clock_timestamp(), error = '' WHERE transaction_id = ANY (@transactions::text[]) AND state <> 'delivered';

-- name: NoteUsageRefused :exec
UPDATE usage_outbox SET state = 'refused', error = @error WHERE transaction_id = @transaction_id AND state = 'pending';

-- The more often it was tried, the longer it waits.
-- name: PostponeUsageOutbox :exec
UPDATE usage_outbox SET error = @error,
    next_at = clock_timestamp() + make_interval(secs => greatest(@asked_seconds::float8, least(@longest_seconds::float8, power(2, least(attempts, 30) - 1) * @first_seconds::float8)))
WHERE transaction_id = ANY (@transactions::text[]) AND state = 'pending';

-- name: ReturnUsageOutbox :exec
UPDATE usage_outbox SET attempts = attempts - 1, next_at = clock_timestamp() WHERE transaction_id = ANY (@transactions::text[]) AND state = 'pending';

-- name: SweepUsageOutbox :execrows
DELETE FROM usage_outbox WHERE transaction_id IN (
    SELECT o.transaction_id FROM usage_outbox o
    WHERE o.state = 'delivered' AND o.delivered_at < clock_timestamp() - make_interval(secs => @keep_seconds::float8) LIMIT @max_rows
);

-- name: ListUsageOutbox :many
SELECT * FROM usage_outbox WHERE state = @state ORDER BY begun_at, transaction_id LIMIT @max_rows;

-- name: CountUsageOutbox :many
SELECT state, count(*) AS number, min(begun_at)::timestamptz AS oldest FROM usage_outbox GROUP BY state ORDER BY state;

-- Those of the ids, or, where there is none, all that were refused.
-- name: RetryUsageOutbox :one
WITH again AS (
    UPDATE usage_outbox SET state = 'pending', attempts = 0, next_at = clock_timestamp()
    WHERE state = 'refused' AND (cardinality(@transactions::text[]) = 0 OR transaction_id = ANY (@transactions::text[]))
    RETURNING account_id, transaction_id
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'usage.retry', transaction_id, 'ok', @request_id FROM again
)
SELECT count(*) FROM again;
