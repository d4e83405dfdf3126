package vmm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
)

// DirEnv is the environment variable that ties a VMM process without a jail to its VM's folder, so that KillStale finds one that
// was started but never recorded.
const DirEnv = "WRENN_VM_DIR"

// Command describes a VMM process.
type Command struct {
	Path   string            // absolute
	Args   []string          // without the program's name
	Dir    string            // the VM's folder: its working directory, and the value of DirEnv, unless it is jailed
	Env    []string          // all of its environment but for DirEnv
	Stdout *os.File          // nil for /dev/null
	Stderr *os.File          // nil for /dev/null
	Files  []*os.File        // become its descriptors 3, 4, ...; the caller keeps and closes its own
	Jail   *jail.Confinement // nil for none; Path and Args name what the jail shows
}

// Spawn starts the process in a session of its own and, unless its jail has another, in the network namespace of this program. Its
// standard input is /dev/null, and it holds no other descriptors than those of c. ctx is looked at only before.
func Spawn(ctx context.Context, c Command) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	defer null.Close()
	if err := closeOnExec(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	return start(c, append([]*os.File{null, orElse(c.Stdout, null), orElse(c.Stderr, null)}, c.Files...))
}

// closeOnExec marks every descriptor of this program beyond standard error, also those that it inherited from whoever
// started it: Go marks only its own. Descriptors that are given to a child on purpose are duplicated for it unmarked.
func closeOnExec() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("mark descriptors close-on-exec: %w", err)
	}
	return nil
}

func orElse(f, other *os.File) *os.File {
	if f == nil {
		return other
	}
	return f
}

// start returns a process that is watched. On failure nothing runs.
func start(c Command, files []*os.File) (*Process, error) {
	pidfd := -1
	child, err := c.launch(files, &pidfd)
	if err != nil {
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
		return nil, fmt.Errorf("start VMM: %w", err)
	}
	process, err := watchChild(child.Pid, pidfd)
	if err != nil {
		_ = child.Kill()
		_, _ = child.Wait()
		return nil, err
	}
	_ = child.Release() // waiting for it is ours
	return process, nil
}

// launch starts the process in its jail, if it has one.
func (c Command) launch(files []*os.File, pidfd *int) (*os.Process, error) {
	dir, env := c.Dir, append([]string{DirEnv + "=" + c.Dir}, c.Env...)
	start := func(attr *syscall.SysProcAttr) (*os.Process, error) {
		attr.Setsid, attr.PidFD = true, pidfd // no Pdeathsig: it outlives us
		return os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
			Dir: dir, Env: env, Files: files, Sys: attr,
		})
	}
	if c.Jail == nil {
		return start(&syscall.SysProcAttr{})
	}
	dir, env = "/", append([]string{}, c.Env...) // and not nil, which would be this program's
	return c.Jail.Start(start)
}

func watchChild(pid, pidfd int) (*Process, error) {
	if pidfd < 0 {
		return nil, errors.New("the kernel gave no pidfd: Linux 5.10 or later is needed")
	}
	identity, err := Identify(pid) // not reaped yet, so the pid cannot have another owner
	if err != nil {
		unix.Close(pidfd)
		return nil, err
	}
	return newProcess(identity, pidfd)
}
