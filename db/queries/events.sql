-- name: ListEvents :many
SELECT * FROM sandbox_events
WHERE account_id = @account_id AND id < @before AND id <= @horizon
    AND (sqlc.narg('sandbox')::text IS NULL OR sandbox_id = sqlc.narg('sandbox'))
ORDER BY id DESC
LIMIT @max_rows;

-- name: EventsAfter :many
SELECT * FROM sandbox_events
WHERE account_id = @account_id AND id > @after AND id <= @horizon
    AND (sqlc.narg('sandbox')::text IS NULL OR sandbox_id = sqlc.narg('sandbox'))
ORDER BY id
LIMIT @max_rows;

-- name: SandboxEventsAfter :many
SELECT * FROM sandbox_events WHERE sandbox_id = @sandbox_id AND generation > @after ORDER BY generation LIMIT @max_rows;

-- Whether a create has left a host: the reason of that event begins with these words.
-- name: HasLeft :one
SELECT EXISTS (SELECT FROM sandbox_events WHERE sandbox_id = @sandbox_id AND from_state = 'starting' AND to_state = 'starting' AND starts_with(reason, @words::text));

-- name: AccountsWithEvents :many
SELECT DISTINCT account_id FROM sandbox_events WHERE id > @after AND id <= @horizon;

-- The last id that was given to an event, whether or not its transaction has ended.
-- name: LastEventID :one
SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('sandbox_events', 'id')::regclass), 0)::bigint;

-- A transaction id that is greater than all that were given before. (The upper bound of a snapshot is not: it is about transactions that have ended.)
-- name: NewTransactionID :one
SELECT pg_current_xact_id()::text::bigint;

-- All transactions with smaller ids have ended.
-- name: OldestTransactionID :one
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
