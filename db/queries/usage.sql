-- The periods of an account that begin before a time and come after (@after_end, @after_id) in the order in which they end; those that last come last. Pages are of one snapshot: what ends
-- meanwhile would else come before the page that it is looked for on.
-- name: UsagePeriods :many
SELECT * FROM usage_periods
WHERE account_id = @account_id AND begun_at < @until
    AND (coalesce(ended_at, timestamptz 'infinity'), id) > (coalesce(sqlc.narg('after_end')::timestamptz, timestamptz 'infinity'), @after_id::bigint)
ORDER BY coalesce(ended_at, timestamptz 'infinity'), id
LIMIT @max_rows;
