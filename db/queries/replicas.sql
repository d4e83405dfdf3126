-- One that has not said for a day that it is alive will not come back: each process is another one.
-- name: Beat :exec
WITH old AS (
    DELETE FROM replicas WHERE seen_at < clock_timestamp() - interval '1 day'
)
INSERT INTO replicas (id, seen_at) VALUES (@id, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp();

-- name: LeaveReplicas :exec
DELETE FROM replicas WHERE id = @id;
