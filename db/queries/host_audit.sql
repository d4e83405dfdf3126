-- name: InsertHostAudit :exec
INSERT INTO host_audit_events (actor, action, target, outcome, detail, request_id)
VALUES (@actor, @action, @target, @outcome, @detail, @request_id);

-- name: ListHostAudit :many
SELECT * FROM host_audit_events
WHERE (sqlc.narg('actor')::text IS NULL OR actor = sqlc.narg('actor'))
    AND (sqlc.narg('action')::text IS NULL OR action = sqlc.narg('action'))
    AND (sqlc.narg('target')::text IS NULL OR target = sqlc.narg('target'))
    AND (sqlc.narg('outcome')::text IS NULL OR outcome = sqlc.narg('outcome'))
    AND (sqlc.narg('request_id')::text IS NULL OR request_id = sqlc.narg('request_id'))
    AND (sqlc.narg('since')::timestamptz IS NULL OR at >= sqlc.narg('since'))
    AND (sqlc.narg('until')::timestamptz IS NULL OR at < sqlc.narg('until'))
    AND (sqlc.narg('before')::bigint IS NULL OR id < sqlc.narg('before'))
ORDER BY id DESC LIMIT @max_rows;
