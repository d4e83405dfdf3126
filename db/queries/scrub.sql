-- Hibernated sandboxes of which what is stored is to be read again, longest unread first, but for those that were tried lately.
-- name: HibernatedToScrub :many
SELECT id, generation, damage, coalesce(archive ->> 'key', '')::text AS archive_key, verified_at FROM sandboxes
WHERE state = 'hibernated' AND archive IS NOT NULL AND NOT id = ANY (@tried::text[])
    AND (verified_at IS NULL OR verified_at < clock_timestamp() - make_interval(secs => @every_seconds))
ORDER BY verified_at NULLS FIRST, id LIMIT @most;
