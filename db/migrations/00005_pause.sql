-- +goose Up

-- Whether a request that needs the guest of a paused sandbox resumes it, and what the guest renewed at its last resume, in the
-- form of db/certificate.go; null before the first.
ALTER TABLE sandboxes
    ADD COLUMN auto_resume boolean NOT NULL DEFAULT true,
    ADD COLUMN certificate jsonb;

-- +goose Down
ALTER TABLE sandboxes
    DROP COLUMN auto_resume,
    DROP COLUMN certificate;
