-- +goose Up

-- What becomes of a sandbox by itself, in seconds; 0: never. Why the times are as they are: docs/adr/0020-lifecycle.md.
ALTER TABLE sandboxes
    ADD COLUMN auto_pause_seconds integer NOT NULL DEFAULT 0 CHECK (auto_pause_seconds >= 0),
    ADD COLUMN auto_hibernate_seconds integer NOT NULL DEFAULT 0 CHECK (auto_hibernate_seconds >= 0),
    ADD COLUMN auto_destroy_seconds integer NOT NULL DEFAULT 0 CHECK (auto_destroy_seconds >= 0),
    ADD COLUMN timeout_seconds integer NOT NULL DEFAULT 0 CHECK (timeout_seconds >= 0),
    ADD COLUMN on_timeout text NOT NULL DEFAULT 'destroy' CHECK (on_timeout IN ('destroy', 'pause')),
    ADD COLUMN used_until timestamptz NOT NULL DEFAULT clock_timestamp(), -- it counts as used until then, which is never much ahead
    ADD COLUMN asleep_since timestamptz, -- or failed since; null while it is neither
    ADD COLUMN timeout_at timestamptz,
    ADD COLUMN look_at timestamptz, -- nothing of the above is due before; null: nothing will be before its state or this changes
    ADD COLUMN damage text NOT NULL DEFAULT '', -- of its snapshot
    ADD COLUMN verified_at timestamptz; -- when its snapshot was last read and found whole; null for none, or for one that was not yet
CREATE INDEX sandboxes_by_look ON sandboxes (look_at) WHERE look_at IS NOT NULL;
UPDATE sandboxes SET asleep_since = updated_at WHERE state IN ('paused', 'error');

-- +goose Down
ALTER TABLE sandboxes
    DROP COLUMN auto_pause_seconds,
    DROP COLUMN auto_hibernate_seconds,
    DROP COLUMN auto_destroy_seconds,
    DROP COLUMN timeout_seconds,
    DROP COLUMN on_timeout,
    DROP COLUMN used_until,
    DROP COLUMN asleep_since,
    DROP COLUMN timeout_at,
    DROP COLUMN look_at,
    DROP COLUMN damage,
    DROP COLUMN verified_at;
