-- +goose Up

-- When its policy was last changed: a host that has not heard of it is told soon.
ALTER TABLE sandboxes ADD COLUMN network_changed_at timestamptz;
CREATE INDEX sandboxes_by_network_change ON sandboxes (network_changed_at) WHERE network_changed_at IS NOT NULL;

-- Where nothing of a sandbox was counted yet there is nothing to end; an UPDATE of no row would be planned anew each time.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION end_usage(sandbox text, snapshot text, at timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    last usage_periods%ROWTYPE;
    ended timestamptz;
BEGIN
    SELECT * INTO last FROM usage_periods p
    WHERE p.sandbox_id = sandbox AND coalesce(p.snapshot_id, '') = coalesce(snapshot, '') ORDER BY p.id DESC LIMIT 1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN at;
    END IF;
    IF last.ended_at IS NOT NULL THEN
        RETURN greatest(at, last.ended_at);
    END IF;
    ended := greatest(at, last.begun_at, last.cut_at); -- nulls count for nothing
    UPDATE usage_periods SET ended_at = ended WHERE id = last.id;
    RETURN ended;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION end_usage(sandbox text, snapshot text, at timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    last usage_periods%ROWTYPE;
    ended timestamptz;
BEGIN
    SELECT * INTO last FROM usage_periods p
    WHERE p.sandbox_id = sandbox AND coalesce(p.snapshot_id, '') = coalesce(snapshot, '') ORDER BY p.id DESC LIMIT 1 FOR NO KEY UPDATE;
    IF last.ended_at IS NOT NULL THEN
        RETURN greatest(at, last.ended_at);
    END IF;
    ended := greatest(at, last.begun_at, last.cut_at); -- nulls count for nothing
    UPDATE usage_periods SET ended_at = ended WHERE id = last.id;
    RETURN ended;
END $$;
-- +goose StatementEnd
ALTER TABLE sandboxes DROP COLUMN network_changed_at;
