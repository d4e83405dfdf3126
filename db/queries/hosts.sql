-- name: ReplaceHosts :many
UPDATE hosts SET state = 'replaced' WHERE address = @address AND id <> @id AND state <> 'replaced' RETURNING id;

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
    last_seen_at = now()
RETURNING *;

-- name: SetHostState :exec
UPDATE hosts SET state = @state WHERE id = @id AND state <> 'replaced';

-- name: ListHosts :many
SELECT * FROM hosts WHERE state <> 'replaced' ORDER BY id;

-- Placements take this lock one after the other, so that two never use the same room. It
-- conflicts with no foreign key that points to the host.
-- name: LockHosts :many
SELECT * FROM hosts WHERE state <> 'replaced' ORDER BY id FOR NO KEY UPDATE;

-- What the sandboxes and the snapshots of each host take of it: one that sleeps takes disk alone, and its memory lies there, as a snapshot
-- does. It must be a statement after LockHosts: a statement sees what was committed before it began.
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
