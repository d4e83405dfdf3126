package devstack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
)

// initdbArgs make a cluster whose only login is by the socket, with sorting and case
// mapping that are the same on every machine.
var initdbArgs = []string{"--username=" + superuser, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"}

// superuser is the role that the URLs log in as.
const superuser = "wrenn"

// initialise makes the data folder, if it does not exist: from the copy in the cache, or
// with initdb, whose result it keeps in the cache. The folder appears whole or not at all.
func (p *postgres) initialise(ctx context.Context, cache string) error {
	if _, err := os.Stat(filepath.Join(p.data, "PG_VERSION")); err == nil {
		return nil
	}
	fresh := p.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove half-made database: %w", err)
	}
	key, err := p.templateKey(ctx)
	if err != nil {
		return err
	}
	template := filepath.Join(cache, key)
	if _, err := os.Stat(template); cache != "" && err == nil {
		err = copyTree(ctx, template, fresh, p.owner)
		if err != nil {
			return fmt.Errorf("copy database template: %w", err)
		}
	} else if err := p.initdb(ctx, fresh, initdbArgs...); err != nil {
		return err
	} else if cache != "" {
		storeTemplate(ctx, fresh, template)
	}
	if err := p.settle(ctx, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, p.data)
}

// settle makes a new data folder durable before it gets its final name.
func (p *postgres) settle(ctx context.Context, dir string) error {
	if p.noSync {
		return nil
	}
	return p.initdb(ctx, dir, "--sync-only")
}

// templateKey names what initdb would make: by version of the program and its arguments.
func (p *postgres) templateKey(ctx context.Context) (string, error) {
	version, err := exec.CommandContext(ctx, p.program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", p.program, err)
	}
	sum := sha256.Sum256([]byte(string(version) + strings.Join(initdbArgs, "\x00")))
	return fmt.Sprintf("postgres-%x", sum[:8]), nil
}

func (p *postgres) initdb(ctx context.Context, dir string, args ...string) error {
	if err := p.owner.mkdir(dir); err != nil {
		return fmt.Errorf("make database folder: %w", err)
	}
	var out strings.Builder
	proc, err := child.Start(child.Spec{
		Path: filepath.Join(filepath.Dir(p.program), "initdb"), Args: append(args, "--pgdata="+dir),
		Env: serverEnv(), Dir: dir, Credential: p.owner.credential, DeathSignal: syscall.SIGKILL,
		Stdout: &out, Stderr: &out,
	})
	if err != nil {
		return err
	}
	select {
	case <-proc.Done():
	case <-ctx.Done():
		proc.Stop(ctx)
		return fmt.Errorf("initdb: %w", ctx.Err())
	}
	if err := proc.Err(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// storeTemplate keeps a copy of a fresh data folder. It is an optimisation: a cache that
// cannot be written, or that another process fills at the same time, is no error.
func storeTemplate(ctx context.Context, fresh, template string) {
	if err := os.MkdirAll(filepath.Dir(template), 0o755); err != nil {
		return
	}
	tmp, err := os.MkdirTemp(filepath.Dir(template), ".new-")
	if err != nil {
		return
	}
	self := owner{uid: os.Geteuid(), gid: os.Getegid()}
	if copyTree(ctx, fresh, filepath.Join(tmp, "data"), self) == nil {
		_ = os.Rename(filepath.Join(tmp, "data"), template)
	}
	_ = os.RemoveAll(tmp)
}

// copyTree copies folders and files, the only kinds in a fresh data folder, for o alone.
func copyTree(ctx context.Context, from, to string, o owner) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return o.mkdir(filepath.Join(to, rel))
		}
		return copyFile(path, filepath.Join(to, rel), o)
	})
}

func copyFile(from, to string, o owner) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := dst.ReadFrom(src); err != nil { // copy_file_range(2)
		dst.Close()
		return err
	}
	if err := dst.Chown(o.uid, o.gid); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
