package devstack

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	// maxSocketPath is the longest path of a unix socket: sun_path holds 108 bytes with
	// the final zero (unix(7)).
	maxSocketPath = 107
	// postgresSocket is the name Postgres gives its socket for port 5432.
	postgresSocket = ".s.PGSQL.5432"
	redisSocket    = "redis.sock"
	runtimePrefix  = "wrenn-run-"
)

// plain paths pass unchanged through Postgres' list syntax and the drivers' URLs.
var plain = regexp.MustCompile(`^[A-Za-z0-9/._-]+$`)

// runtimeDir makes an empty folder for the sockets, which only the owner can enter:
// dir/run where that makes socket paths that work, else a short one in the
// system's temporary folder, whose name is kept in dir/run.path.
func runtimeDir(dir string, o owner) (string, error) {
	record := filepath.Join(dir, "run.path")
	if err := removeRuntimeDir(dir); err != nil {
		return "", err
	}
	run := filepath.Join(dir, "run")
	if !socketsFit(run) {
		var err error
		if run, err = os.MkdirTemp("/tmp", runtimePrefix); err != nil {
			return "", fmt.Errorf("make runtime folder: %w", err)
		}
		if err := os.WriteFile(record, []byte(run), 0o644); err != nil {
			_ = os.Remove(run) // it is empty
			return "", fmt.Errorf("note runtime folder: %w", err)
		}
	}
	if err := o.mkdir(run); err != nil {
		return "", fmt.Errorf("make runtime folder: %w", err)
	}
	return run, nil
}

// removeRuntimeDir removes the folders that runtimeDir made for dir, in this life or an earlier one.
func removeRuntimeDir(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, "run")); err != nil {
		return fmt.Errorf("remove runtime folder: %w", err)
	}
	record := filepath.Join(dir, "run.path")
	b, err := os.ReadFile(record)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", record, err)
	}
	if run := string(b); filepath.Dir(run) == "/tmp" && strings.HasPrefix(filepath.Base(run), runtimePrefix) {
		if err := os.RemoveAll(run); err != nil {
			return fmt.Errorf("remove runtime folder: %w", err)
		}
	}
	return os.Remove(record)
}

func socketsFit(run string) bool {
	return len(run)+len("/"+postgresSocket) <= maxSocketPath && plain.MatchString(run)
}
