-- name: ReplaceHosts :many
WITH replaced AS (
    UPDATE hosts SET state = 'replaced' WHERE address = @address AND hosts.id <> @id AND state NOT IN ('replaced', 'removed') RETURNING id
), audited AS (
    INSERT INTO host_audit_events (actor, action, target, outcome, detail, request_id)
    SELECT 'system', 'host.replace', id, 'ok', @id::text || ' answers at its address', 'reconcile' FROM replaced
)
SELECT id FROM replaced;

-- One that was removed stays so: then there is no row.
-- name: UpsertHost :one
INSERT INTO hosts (id, name, address, state, agent_version, driver, driver_version, accelerator,
    vcpus, memory_mib, overhead_mib, disk_mib, reflinks, templates, archive)
VALUES (@id, @name, @address, 'ready', @agent_version, @driver, @driver_version, @accelerator,
    @vcpus, @memory_mib, @overhead_mib, @disk_mib, @reflinks, @templates, @archive)
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, address = excluded.address, state = 'ready', agent_version = excluded.agent_version,
    driver = excluded.driver, driver_version = excluded.driver_version, accelerator = excluded.accelerator,
    vcpus = excluded.vcpus, memory_mib = excluded.memory_mib, overhead_mib = excluded.overhead_mib, disk_mib = excluded.disk_mib,
    reflinks = excluded.reflinks, templates = excluded.templates, archive = excluded.archive,
    connects = hosts.connects + @connects::bigint,
    connected_at = CASE WHEN @connects::bigint > 0 THEN now() ELSE hosts.connected_at END,
    last_seen_at = now(), down_at = NULL
WHERE hosts.state <> 'removed'
RETURNING *;

-- Those of the hosts that are ready, which is what their rows say whose time is written. A row that somebody has locked is left as it is, and one
-- that another replica has just written.
-- name: HeardOf :many
WITH heard AS (
    UPDATE hosts SET last_seen_at = now() WHERE hosts.id IN (
        SELECT h.id FROM hosts AS h
        WHERE h.id = ANY(@ids::text[]) AND h.state = 'ready' AND h.last_seen_at < now() - make_interval(secs => @fresh_seconds::float8)
        FOR NO KEY UPDATE SKIP LOCKED
    )
)
SELECT hosts.id FROM hosts WHERE hosts.id = ANY(@ids::text[]) AND hosts.state = 'ready';

-- name: MarkUnreachable :exec
UPDATE hosts SET state = 'unreachable', down_at = coalesce(down_at, now()) WHERE id = @id AND state NOT IN ('replaced', 'removed');

-- name: ListHosts :many
SELECT * FROM hosts WHERE state NOT IN ('replaced', 'removed') ORDER BY id;

-- What the sandboxes and the snapshots of each host take of it: one that sleeps takes disk alone, and its memory lies there, as a snapshot
-- does. Where it is to be exact it must be a statement after LockHost: a statement sees what was committed before it began.
-- name: Allotments :many
SELECT host_id::text AS host_id, sum(sandboxes)::bigint AS sandboxes, sum(vcpus)::bigint AS vcpus, sum(memory_mib)::bigint AS memory_mib, sum(disk_mib)::bigint AS disk_mib
FROM (
    SELECT host_id, count(*) FILTER (WHERE state NOT IN ('paused', 'hibernating')) AS sandboxes,
        coalesce(sum(vcpus) FILTER (WHERE state NOT IN ('paused', 'hibernating')), 0) AS vcpus,
        coalesce(sum(memory_mib) FILTER (WHERE state NOT IN ('paused', 'hibernating')), 0) AS memory_mib,
        sum(disk_mib + CASE WHEN state IN ('pausing', 'paused', 'resuming', 'hibernating') THEN memory_mib ELSE 0 END) AS disk_mib
    FROM sandboxes
    WHERE host_id IS NOT NULL AND state IN ('starting', 'running', 'pausing', 'paused', 'resuming', 'hibernating', 'stopping')
    GROUP BY host_id
    UNION ALL
    SELECT host_id, 0, 0, 0, sum(disk_mib + memory_mib) FROM snapshots WHERE state <> 'error' GROUP BY host_id
) AS taken
GROUP BY host_id;

-- name: SetDraining :execrows
WITH changed AS (
    UPDATE hosts SET draining = @draining, evict = @draining::bool AND @evict::bool
    WHERE hosts.id = @id AND state NOT IN ('replaced', 'removed')
    RETURNING hosts.id, hosts.draining, hosts.evict
)
INSERT INTO host_audit_events (actor, action, target, outcome, detail, request_id)
SELECT @actor, CASE WHEN draining THEN 'host.drain' ELSE 'host.undrain' END, id, 'ok', CASE WHEN evict THEN 'evict' ELSE '' END, @request_id FROM changed;

-- The last host that takes sandboxes is left in: one that fails now and then is better than none.
-- name: Quarantine :execrows
WITH changed AS (
    UPDATE hosts SET quarantine = @reason, quarantined_at = now()
    WHERE hosts.id = @id AND hosts.quarantine = '' AND EXISTS (
        SELECT 1 FROM hosts AS other
        WHERE other.id <> @id AND other.state = 'ready' AND NOT other.draining AND other.quarantine = ''
    )
    RETURNING id, quarantine
)
INSERT INTO host_audit_events (actor, action, target, outcome, detail, request_id)
SELECT 'system', 'host.quarantine', id, 'ok', quarantine, 'reconcile' FROM changed;

-- name: EndQuarantine :execrows
WITH changed AS (
    UPDATE hosts SET quarantine = '', quarantined_at = NULL WHERE hosts.id = @id AND quarantine <> '' RETURNING id
)
INSERT INTO host_audit_events (actor, action, target, outcome, request_id)
SELECT 'system', 'host.unquarantine', id, 'ok', 'reconcile' FROM changed;

-- Placements on a host take this lock one after the other, so that two never use the same room. It
-- conflicts with no foreign key that points to the host.
-- name: LockHost :one
SELECT * FROM hosts WHERE id = @id AND state NOT IN ('replaced', 'removed') FOR NO KEY UPDATE;

-- name: RemoveHost :exec
UPDATE hosts SET state = 'removed', down_at = coalesce(down_at, now()) WHERE id = @id;

-- What lies on each host: sandboxes that run, or are about to, those that sleep there, and snapshots.
-- name: HostHoldings :many
SELECT host_id::text AS host_id, sum(running)::bigint AS running, sum(sleeping)::bigint AS sleeping, sum(snapshots)::bigint AS snapshots
FROM (
    SELECT host_id, count(*) FILTER (WHERE state NOT IN ('paused', 'hibernating')) AS running,
        count(*) FILTER (WHERE state IN ('paused', 'hibernating')) AS sleeping, 0 AS snapshots
    FROM sandboxes
    WHERE host_id IS NOT NULL AND state IN ('starting', 'running', 'pausing', 'paused', 'resuming', 'hibernating', 'stopping')
    GROUP BY host_id
    UNION ALL
    SELECT host_id, 0, 0, count(*) FROM snapshots WHERE state <> 'error' GROUP BY host_id
) AS held
GROUP BY host_id;

-- Allotments of one host, likewise after LockHost.
-- name: AllotmentsOf :one
SELECT coalesce(sum(sandboxes), 0)::bigint AS sandboxes, coalesce(sum(vcpus), 0)::bigint AS vcpus,
    coalesce(sum(memory_mib), 0)::bigint AS memory_mib, coalesce(sum(disk_mib), 0)::bigint AS disk_mib
FROM (
    SELECT count(*) FILTER (WHERE state NOT IN ('paused', 'hibernating')) AS sandboxes,
        coalesce(sum(vcpus) FILTER (WHERE state NOT IN ('paused', 'hibernating')), 0) AS vcpus,
        coalesce(sum(memory_mib) FILTER (WHERE state NOT IN ('paused', 'hibernating')), 0) AS memory_mib,
        sum(disk_mib + CASE WHEN state IN ('pausing', 'paused', 'resuming', 'hibernating') THEN memory_mib ELSE 0 END) AS disk_mib
    FROM sandboxes
    WHERE host_id = @host_id::text AND state IN ('starting', 'running', 'pausing', 'paused', 'resuming', 'hibernating', 'stopping')
    UNION ALL
    SELECT 0, 0, 0, sum(disk_mib + memory_mib) FROM snapshots WHERE host_id = @host_id::text AND state <> 'error'
) AS taken;
