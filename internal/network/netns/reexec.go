package netns

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// entered marks a process that EnterAndReexec has moved already.
const entered = "WRENN_NETNS_ENTERED"

// EnterAndReexec moves the whole process into the namespace that is mounted on path: it
// enters it on one thread and executes the program anew from there, with the same
// arguments, environment and pid. It returns nil when the process is in the namespace, and
// is therefore to be called first thing in main: before it returned nil, everything is done twice.
func EnterAndReexec(path string) error {
	n, err := Open(path)
	if err != nil {
		return err
	}
	defer n.Close()
	inside, err := n.isCurrent()
	if err != nil {
		return err
	}
	if inside {
		return os.Unsetenv(entered)
	}
	if os.Getenv(entered) == path {
		return fmt.Errorf("still not in network namespace %s after entering it", path)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // for good: the thread is in the namespace or becomes the process
	if err := n.enter(); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	err = syscall.Exec(program, os.Args, append(os.Environ(), entered+"="+path))
	return fmt.Errorf("execute %s anew: %w", program, err)
}

// isCurrent says whether the calling thread is in the namespace.
func (n *Namespace) isCurrent() (bool, error) {
	var here, there unix.Stat_t
	if err := unix.Stat(current, &here); err != nil {
		return false, err
	}
	if err := unix.Fstat(n.FD(), &there); err != nil {
		return false, err
	}
	return here.Dev == there.Dev && here.Ino == there.Ino, nil
}
