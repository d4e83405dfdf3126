package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // database/sql driver "pgx", which goose needs
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migration is one step of the schema and whether the database has taken it.
type Migration struct {
	Version   int64
	File      string
	AppliedAt time.Time // zero when it is not applied
}

// MigrateUp brings the schema of the database at url up to date and returns how many
// steps it took. Of several that try at once one does it and the others wait.
func MigrateUp(ctx context.Context, url string) (int, error) {
	var steps int
	err := withGoose(url, func(p *goose.Provider) error {
		done, err := p.Up(ctx)
		steps = len(done)
		return err
	})
	return steps, wrap(err, "migrate the database")
}

// MigrateDown undoes the last step. Without one it does nothing.
func MigrateDown(ctx context.Context, url string) error {
	err := withGoose(url, func(p *goose.Provider) error {
		_, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		return err
	})
	return wrap(err, "undo the last migration")
}

// MigrateReset undoes all steps: every row is lost.
func MigrateReset(ctx context.Context, url string) error {
	err := withGoose(url, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, 0)
		return err
	})
	return wrap(err, "reset the database")
}

// Migrations lists all steps in order.
func Migrations(ctx context.Context, url string) ([]Migration, error) {
	var all []Migration
	err := withGoose(url, func(p *goose.Provider) error {
		status, err := p.Status(ctx)
		for _, s := range status {
			all = append(all, Migration{Version: s.Source.Version, File: s.Source.Path, AppliedAt: s.AppliedAt})
		}
		return err
	})
	return all, wrap(err, "read the state of migrations")
}

func withGoose(url string, do func(*goose.Provider) error) error {
	conn, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	defer conn.Close()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300)) // seconds, attempts
	if err != nil {
		return err
	}
	// A release may bring a step with a smaller number than one that was there before it: numbers are given when work on a step begins, and steps that are made side by side do not
	// need each other.
	p, err := goose.NewProvider(goose.DialectPostgres, conn, files, goose.WithSessionLocker(locker), goose.WithAllowOutofOrder(true))
	if err != nil {
		return err
	}
	return do(p)
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, coded(err))
}
