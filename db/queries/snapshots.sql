-- Its sandbox's row says what it is of. Nothing is inserted where that is not there any more, or neither runs nor is paused.
-- name: InsertSnapshot :one
WITH made AS (
    INSERT INTO snapshots (id, account_id, host_id, sandbox_id, parent_id, name, template, vcpus, memory_mib, disk_mib, network,
        state, operation, deadline)
    SELECT @id, s.account_id, s.host_id, s.id,
        coalesce((SELECT p.id FROM snapshots p WHERE p.sandbox_id = s.id AND p.state = 'ready' ORDER BY p.created_at DESC, p.id DESC LIMIT 1), s.snapshot_id),
        @name, s.template, s.vcpus, s.memory_mib, s.disk_mib, s.network,
        'creating', @operation, clock_timestamp() + make_interval(secs => @deadline_seconds::float8)
    FROM sandboxes s WHERE s.id = @sandbox_id AND s.account_id = @account_id AND s.state IN ('running', 'paused')
    RETURNING snapshots.*
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'snapshot.create', id, 'accepted', operation FROM made
)
SELECT * FROM made;

-- name: SnapshotOfAccount :one
SELECT * FROM snapshots WHERE id = @id AND account_id = @account_id;

-- name: ListSnapshots :many
SELECT * FROM snapshots
WHERE account_id = @account_id
    AND (sqlc.narg('sandbox')::text IS NULL OR sandbox_id = sqlc.narg('sandbox'))
    AND (sqlc.narg('before')::timestamptz IS NULL OR (created_at, id) < (sqlc.narg('before'), @before_id::text))
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: ChangeSnapshot :one
WITH changed AS (
    UPDATE snapshots SET state = @to_state, reason = @reason, bytes = greatest(bytes, @bytes::bigint), deadline = NULL, updated_at = clock_timestamp()
    WHERE snapshots.id = @id AND snapshots.state = ANY (@from_states::text[])
    RETURNING snapshots.*
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, @audit_action, id, @audit_outcome, @operation FROM changed WHERE @audit_action::text <> ''
)
SELECT * FROM changed;

-- name: RemoveSnapshot :exec
WITH gone AS (
    DELETE FROM snapshots WHERE snapshots.id = @id AND snapshots.state = ANY (@from_states::text[])
    RETURNING snapshots.*
)
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
SELECT account_id, @actor, @audit_action, id, @audit_outcome, @operation FROM gone;

-- What is compared with what a host holds.
-- name: SnapshotsOfHost :many
SELECT id, state, coalesce(deadline < clock_timestamp(), false)::bool AS overdue,
    extract(epoch FROM clock_timestamp() - updated_at)::float8 AS age_seconds
FROM snapshots
WHERE host_id = @host_id;

-- Those that no host can answer for.
-- name: HomelessSnapshots :many
SELECT n.id, n.state, h.name AS host_name, (h.state = 'removed')::bool AS host_removed
FROM snapshots n JOIN hosts h ON h.id = n.host_id
WHERE h.state IN ('replaced', 'removed') AND n.state <> 'error';
