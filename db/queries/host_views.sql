-- name: PageOfHosts :many
SELECT * FROM hosts
WHERE state NOT IN ('replaced', 'removed')
    AND (sqlc.narg('states')::text[] IS NULL OR host_state(down_at, draining, quarantine) = ANY(sqlc.narg('states')::text[]))
    AND (sqlc.narg('before')::timestamptz IS NULL OR (created_at, id) < (sqlc.narg('before'), @before_id::text))
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: KnownHost :one
SELECT * FROM hosts WHERE id = @id AND state NOT IN ('replaced', 'removed');

-- What lies on some hosts, and what it takes of them: see Allotments and HostHoldings.
-- name: HeldBy :many
SELECT host_id::text AS host_id, sum(running)::bigint AS running, sum(sleeping)::bigint AS sleeping, sum(snapshots)::bigint AS snapshots,
    sum(vcpus)::bigint AS vcpus, sum(memory_mib)::bigint AS memory_mib, sum(disk_mib)::bigint AS disk_mib
FROM (
    SELECT host_id, (NOT asleep)::int AS running, asleep::int AS sleeping, 0 AS snapshots,
        CASE WHEN asleep THEN 0 ELSE vcpus END AS vcpus, CASE WHEN asleep THEN 0 ELSE memory_mib END AS memory_mib,
        disk_mib + CASE WHEN asleep OR state IN ('pausing', 'resuming') THEN memory_mib ELSE 0 END AS disk_mib
    FROM (SELECT *, state IN ('paused', 'hibernating') AS asleep FROM sandboxes WHERE host_id = ANY(@hosts::text[])) AS placed
    WHERE state IN ('starting', 'running', 'pausing', 'paused', 'resuming', 'hibernating', 'stopping')
    UNION ALL
    SELECT host_id, 0, 0, 1, 0, 0, disk_mib + memory_mib FROM snapshots WHERE host_id = ANY(@hosts::text[]) AND state <> 'error'
) AS held
GROUP BY host_id;
