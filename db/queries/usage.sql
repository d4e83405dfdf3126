-- The periods of an account that have something of [@since, @until), by pages in the order of their ids.
-- name: UsagePeriods :many
SELECT * FROM usage_periods
WHERE account_id = @account_id AND coalesce(ended_at, timestamptz 'infinity') > @since::timestamptz AND begun_at < @until AND id > @after
ORDER BY id
LIMIT @max_rows;
