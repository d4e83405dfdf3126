-- A sandbox is inserted with its place: that it was pending is an event alone. One statement is one round trip, in which no row is changed that was just written.
-- name: InsertSandbox :one
WITH made AS (
    INSERT INTO sandboxes (id, account_id, host_id, name, template, vcpus, memory_mib, disk_mib, metadata, network, auto_resume,
        auto_pause_seconds, auto_hibernate_seconds, auto_destroy_seconds, timeout_seconds, on_timeout, timeout_at,
        parent_id, snapshot_id, state, generation, reason, operation, deadline, carried_by)
    VALUES (@id, @account_id, @host_id::text, @name, @template, @vcpus, @memory_mib, @disk_mib, @metadata, @network, @auto_resume,
        @auto_pause_seconds, @auto_hibernate_seconds, @auto_destroy_seconds, @timeout_seconds::integer, @on_timeout,
        CASE WHEN @timeout_seconds::integer > 0 THEN clock_timestamp() + make_interval(secs => @timeout_seconds::integer) END,
        sqlc.narg('parent_id'), sqlc.narg('snapshot_id'), 'starting', 2, '', @operation, clock_timestamp() + make_interval(secs => @deadline_seconds::float8), sqlc.narg('carried_by'))
    RETURNING sandboxes.*
), event AS (
    INSERT INTO sandbox_events (account_id, sandbox_id, from_state, to_state, reason, actor, operation, generation)
    SELECT account_id, id, step.from_state, step.to_state, '', @actor, operation, step.generation
    FROM made, (VALUES (NULL::sandbox_state, 'pending'::sandbox_state, 1), ('pending', 'starting', 2)) AS step (from_state, to_state, generation)
    ORDER BY step.generation
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'sandbox.create', id, 'accepted', operation FROM made
)
SELECT * FROM made;

-- One statement is the compare-and-set, its event row and its audit row: they happen
-- together or not at all, in one round trip.
-- name: TransitionSandbox :one
WITH changed AS (
    UPDATE sandboxes SET
        state = @to_state,
        generation = generation + 1,
        -- Why it was put to sleep, or ended, is also why it sleeps or has ended.
        reason = CASE WHEN @reason::text = '' AND (@from_state::sandbox_state, @to_state::sandbox_state)
            IN (('pausing', 'paused'), ('hibernating', 'hibernated'), ('stopping', 'stopped')) THEN reason ELSE @reason::text END,
        operation = @operation,
        deadline = clock_timestamp() + make_interval(secs => sqlc.narg('deadline_seconds')::float8),
        carried_by = CASE WHEN sqlc.narg('deadline_seconds')::float8 IS NOT NULL THEN sqlc.narg('carried_by')::text END,
        host_id = CASE WHEN @to_state::sandbox_state = 'hibernated' THEN NULL ELSE coalesce(sqlc.narg('host_id'), host_id) END,
        archive = coalesce(sqlc.narg('archive'), archive),
        cold = CASE WHEN @to_state::sandbox_state = 'hibernated' THEN true
            WHEN @to_state::sandbox_state IN ('running', 'paused') THEN false ELSE cold END,
        timings = coalesce(sqlc.narg('timings'), timings),
        certificate = coalesce(sqlc.narg('certificate'), certificate),
        started_at = CASE WHEN @to_state::sandbox_state = 'running' THEN coalesce(started_at, clock_timestamp()) ELSE started_at END,
        -- A sandbox counts as used when it begins to run, and its timeout then begins: at its start, and where it had ended before it slept.
        used_until = CASE WHEN @to_state::sandbox_state = 'running' AND @from_state::sandbox_state <> 'pausing'
            THEN greatest(used_until, clock_timestamp()) ELSE used_until END,
        timeout_at = CASE WHEN timeout_seconds > 0 AND @to_state::sandbox_state = 'running'
                AND (@from_state::sandbox_state = 'starting' OR @from_state::sandbox_state <> 'pausing' AND timeout_at <= clock_timestamp())
            THEN clock_timestamp() + make_interval(secs => timeout_seconds) ELSE timeout_at END,
        asleep_since = CASE WHEN @to_state::sandbox_state IN ('paused', 'hibernated', 'error') THEN coalesce(asleep_since, clock_timestamp())
            WHEN @to_state::sandbox_state = 'running' THEN NULL ELSE asleep_since END,
        look_at = CASE WHEN auto_pause_seconds + auto_hibernate_seconds + auto_destroy_seconds + timeout_seconds > 0
                AND @to_state::sandbox_state IN ('running', 'paused', 'hibernated', 'error')
            -- What failed is not tried again at once.
            THEN clock_timestamp() + CASE WHEN (@from_state::sandbox_state, @to_state::sandbox_state)
                IN (('pausing', 'running'), ('hibernating', 'paused')) THEN interval '30 seconds' ELSE interval '0' END END,
        verified_at = CASE WHEN @to_state::sandbox_state IN ('running', 'hibernated') THEN NULL ELSE verified_at END,
        damage = CASE WHEN @to_state::sandbox_state = 'running' THEN '' ELSE damage END,
        updated_at = clock_timestamp()
    WHERE sandboxes.id = @id AND sandboxes.state = @from_state AND sandboxes.generation = @generation
    RETURNING sandboxes.*
), event AS (
    INSERT INTO sandbox_events (account_id, sandbox_id, from_state, to_state, reason, actor, operation, generation)
    SELECT account_id, id, @from_state, state, reason, @actor, operation, generation FROM changed
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, @audit_action, id, @audit_outcome, operation FROM changed
    WHERE @audit_action::text <> ''
)
SELECT * FROM changed;

-- name: SandboxByID :one
SELECT * FROM sandboxes WHERE id = @id;

-- name: SandboxOfAccount :one
SELECT * FROM sandboxes WHERE id = @id AND account_id = @account_id;

-- A change of the policy reads the row with this, and no other change of it, of its state or otherwise, happens before it ends.
-- name: LockSandboxOfAccount :one
SELECT * FROM sandboxes WHERE id = @id AND account_id = @account_id FOR NO KEY UPDATE;

-- name: SetNetwork :one
WITH changed AS (
    UPDATE sandboxes SET network = @network, network_generation = network_generation + 1, network_changed_at = clock_timestamp()
    WHERE sandboxes.id = @id
    RETURNING sandboxes.*
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'sandbox.network', id, 'accepted', @request_id FROM changed
)
SELECT * FROM changed;

-- name: ListSandboxes :many
SELECT * FROM sandboxes
WHERE account_id = @account_id
    AND state::text = ANY (@states::text[])
    AND (sqlc.narg('template')::text IS NULL OR template = sqlc.narg('template'))
    AND metadata @> @metadata::jsonb
    AND (sqlc.narg('before')::timestamptz IS NULL OR (created_at, id) < (sqlc.narg('before'), @before_id::text))
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- What a reconciler compares with hosts: the rows that one host should know of, those of the sandboxes that are named (wherever they should be), and
-- where they are wanted those of which anything is on its way, on all hosts: a passing state, or a policy that was changed a short while ago.
-- name: ReconcileRows :many
WITH wanted AS (
    SELECT s.id FROM sandboxes s
    WHERE host_id = @host_id::text AND state IN ('starting', 'running', 'pausing', 'paused', 'resuming', 'hibernating', 'stopping')
    UNION SELECT unnest(@named::text[])
    UNION SELECT s.id FROM sandboxes s
    WHERE @passing::bool AND (deadline IS NOT NULL OR network_changed_at > now() - make_interval(secs => @policy_seconds::float8))
)
SELECT id, host_id, state, generation, network_generation, verified_at, damage, cold, (parent_id IS NOT NULL)::bool AS forked,
    coalesce(deadline < clock_timestamp(), false)::bool AS overdue,
    (carried_by IS NOT NULL AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => @silence_seconds::float8)
        AND NOT EXISTS (SELECT FROM replicas r WHERE r.id = carried_by AND r.seen_at > clock_timestamp() - make_interval(secs => @silence_seconds::float8)))::bool AS forsaken,
    extract(epoch FROM clock_timestamp() - updated_at)::float8 AS age_seconds
FROM sandboxes WHERE sandboxes.id IN (SELECT wanted.id FROM wanted);

-- Rows that no host can answer for: never placed, or placed on a host that was replaced or removed.
-- name: HomelessRows :many
SELECT s.id, s.state, s.generation, s.cold, (s.parent_id IS NOT NULL)::bool AS forked, '' AS host_name, false AS host_removed
FROM sandboxes s WHERE s.state IN ('pending', 'stopping') AND s.host_id IS NULL AND s.deadline < now()
UNION ALL
SELECT s.id, s.state, s.generation, s.cold, (s.parent_id IS NOT NULL)::bool, h.name, h.state = 'removed'
FROM hosts h JOIN sandboxes s ON s.host_id = h.id
WHERE h.state IN ('replaced', 'removed') AND s.state IN ('starting', 'running', 'pausing', 'paused', 'resuming', 'hibernating', 'stopping');

-- What is known of the sandboxes of stored snapshots.
-- name: ArchivedRows :many
SELECT id, state, coalesce(archive ->> 'key', '')::text AS archive_key FROM sandboxes WHERE id = ANY (@ids::text[]);
