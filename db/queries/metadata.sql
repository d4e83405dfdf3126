-- name: SetMetadata :one
WITH changed AS (
    UPDATE sandboxes SET metadata = @metadata WHERE sandboxes.id = @id AND sandboxes.account_id = @account_id
    RETURNING sandboxes.*
), audited AS (
    INSERT INTO audit_events (account_id, actor, action, target, outcome, request_id)
    SELECT account_id, @actor, 'sandbox.metadata', id, 'ok', @request_id FROM changed
)
SELECT * FROM changed;
