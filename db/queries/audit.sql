-- name: InsertAudit :exec
INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
VALUES (@account_id, @actor, @action, @target, @outcome, @request_id);

-- name: ListAudit :many
SELECT * FROM audit_events WHERE account_id = @account_id ORDER BY id DESC LIMIT @max_rows;
