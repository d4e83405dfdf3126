package hostsetup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/meminfo"
)

// commandTimeout bounds the programs that are run: modprobe, useradd and the like take milliseconds.
const commandTimeout = time.Minute

// machine is what is set up. Tests put a folder in place of the root, and their own answers in place of what is not below it.
type machine struct {
	Options
	root     string
	run      func(ctx context.Context, program string, args ...string) error
	remount  func(target string, flags uintptr, options string) error
	nftables func() error                                                 // whether the kernel has nf_tables
	filter   func(ctx context.Context, file string) error                 // of Firecracker: CheckFilter
	reflinks func(dir string) (bool, error)                               // of an existing folder
	volume   func(ctx context.Context, dir string, sizeGiB int) error     // makes one, or mounts it
	unvolume func(ctx context.Context, dir string) (held bool, err error) // removes one that holds nothing
}

func thisMachine(opts Options) *machine {
	return &machine{
		Options: opts, root: "/", run: run, nftables: listTables, filter: checkFilter, reflinks: filesystem.HasReflinks,
		remount: func(target string, flags uintptr, options string) error {
			return unix.Mount("", target, "", flags|unix.MS_REMOUNT, options)
		},
		volume: func(ctx context.Context, dir string, sizeGiB int) error {
			_, err := filesystem.EnsureReflinkVolume(ctx, dir, filesystem.VolumeConfig{SizeGiB: sizeGiB, Logger: slog.New(slog.DiscardHandler)})
			return err
		},
		unvolume: filesystem.RemoveEmptyVolume,
	}
}

// run runs a program; the error holds what it said.
func run(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	path, err := lookPath(program)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, errors.Join(err, ctx.Err()), bytes.TrimSpace(out))
	}
	return nil
}

// lookPath also looks where a shell that has become root by su does not.
func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", program)
}

func listTables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTables()
	return err
}

// path is a path of the machine, below the root of tests.
func (m *machine) path(name string) string { return filepath.Join(m.root, name) }

// text is the content of a file without the blanks around it, "" if it cannot be read.
func (m *machine) text(name string) string {
	b, err := os.ReadFile(m.path(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (m *machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

// memoryMiB is the machine's memory.
func (m *machine) memoryMiB() int {
	bytes, _ := meminfo.Bytes(m.text("/proc/meminfo"), "MemTotal") // 0 where it is nonsense
	return int(bytes >> 20)
}

// existing is dir, or the nearest folder above it that exists, on the real machine.
func existing(dir string) string {
	for {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
