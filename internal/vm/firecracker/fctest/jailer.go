package fctest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// Jailer is a jailer executable: it takes the arguments of Firecracker's (docs/jailer.md and src/jailer/src/env.rs), as strictly, does to itself what that
// one does, and then, where that one executes Firecracker, is Firecracker. As there, the cgroup and the pid namespace are left to its caller where it
// is not told of any.
func Jailer(args []string, guest Guest) int {
	if slices.Equal(args, []string{"--version"}) {
		fmt.Printf("Jailer v%s\n\n", Version)
		return exitOK
	}
	rest, err := enterJail(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitGeneric
	}
	return Main(rest, guest)
}

type jailOptions struct{ id, execFile, uid, gid, base string }

// enterJail returns the arguments for Firecracker.
func enterJail(args []string) ([]string, error) {
	o, rest, err := parseJail(args)
	if err != nil {
		return nil, err
	}
	exec, err := filepath.EvalSymlinks(o.execFile)
	if err != nil {
		return nil, fmt.Errorf("failed to canonicalize path %s: %w", o.execFile, err)
	}
	base, err := filepath.EvalSymlinks(o.base)
	if err != nil {
		return nil, fmt.Errorf("failed to canonicalize path %s: %w", o.base, err)
	}
	uid, errUID := strconv.ParseUint(o.uid, 10, 32)
	gid, errGID := strconv.ParseUint(o.gid, 10, 32)
	if err := errors.Join(errUID, errGID); err != nil {
		return nil, fmt.Errorf("invalid uid or gid: %w", err)
	}
	name := filepath.Base(exec)
	devices := devicesOfJail()
	root := filepath.Join(base, name, o.id, "root")
	for _, step := range []func() error{
		func() error { return os.MkdirAll(root, 0o777) },
		func() error { return copyProgram(filepath.Join(root, name), exec, int(uid), int(gid)) },
		func() error { return changeRoot(root) },
		func() error { return furnish(int(uid), int(gid), devices) },
		func() error {
			return os.WriteFile("/"+name+".pid", strconv.AppendInt(nil, int64(os.Getpid()), 10), 0o644)
		},
		func() error {
			return errors.Join(syscall.Setgroups(nil), syscall.Setgid(int(gid)), syscall.Setuid(int(uid)))
		},
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return append([]string{"--id", o.id}, rest...), nil
}

// parseJail refuses what the driver has no use for, although the jailer knows it.
func parseJail(args []string) (o jailOptions, rest []string, err error) {
	at := slices.Index(args, "--")
	if at < 0 || at%2 == 1 {
		return o, nil, fmt.Errorf("arguments %q: each has a value, and what follows -- is Firecracker's", args)
	}
	given := map[string]string{}
	for i := 0; i < at; i += 2 {
		if _, twice := given[args[i]]; twice {
			return o, nil, fmt.Errorf("the argument %q was provided more than once", args[i])
		}
		given[args[i]] = args[i+1]
	}
	for name, into := range map[string]*string{
		"--id": &o.id, "--exec-file": &o.execFile, "--uid": &o.uid, "--gid": &o.gid, "--chroot-base-dir": &o.base,
	} {
		if *into = given[name]; *into == "" {
			return o, nil, fmt.Errorf("the argument %q is missing", name)
		}
		delete(given, name)
	}
	if limit, ok := strings.CutPrefix(given["--resource-limit"], "no-file="); ok {
		if _, err := strconv.ParseUint(limit, 10, 64); err != nil {
			return o, nil, fmt.Errorf("invalid limit: %w", err)
		}
		delete(given, "--resource-limit")
	}
	if len(given) > 0 {
		return o, nil, fmt.Errorf("arguments %v weren't expected", given)
	}
	return o, args[at+1:], options{id: o.id, level: "off"}.check()
}

// copyProgram copies, as the jailer does: a hard link would share its memory with other VMs.
func copyProgram(to, from string, uid, gid int) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Chown(uid, gid), target.Close())
}

// changeRoot gives this program a mount namespace of its own, with root as its root. It needs no change of the running threads' namespaces:
// its caller has made one for it, so that a chroot(2) comes to the same for what the tests look at.
func changeRoot(root string) error {
	if err := os.Mkdir(filepath.Join(root, "old_root"), 0o600); err != nil { // as the jailer: it fails in a jail that was used
		return fmt.Errorf("failed to create the jail root directory before pivoting root: %w", err)
	}
	if err := os.Remove(filepath.Join(root, "old_root")); err != nil {
		return err
	}
	if err := syscall.Chroot(root); err != nil {
		return err
	}
	return os.Chdir("/")
}

// devicesOfJail are the numbers of the devices that the jailer makes, userfaultfd's only where the host has it.
func devicesOfJail() map[string]uint64 {
	devices := map[string]uint64{"/dev/net/tun": unix.Mkdev(10, 200), "/dev/kvm": unix.Mkdev(10, 232), "/dev/urandom": unix.Mkdev(1, 9)}
	var stat unix.Stat_t
	if unix.Stat(uffd.Device, &stat) == nil {
		devices[uffd.Device] = stat.Rdev
	}
	return devices
}

// furnish makes the folders and devices that the jailer makes, the user's all of them.
func furnish(uid, gid int, devices map[string]uint64) error {
	for _, dir := range []string{"/", "/dev", "/dev/net", "/run"} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700), os.Chown(dir, uid, gid)); err != nil {
			return err
		}
	}
	for path, number := range devices {
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(number)); err != nil {
			return fmt.Errorf("failed to create %s via mknod inside the jail: %w", strings.TrimPrefix(path, "/"), err)
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}
