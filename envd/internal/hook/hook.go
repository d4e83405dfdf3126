// Package hook runs the programs that a template or its user wants run when a guest goes on after it was frozen: those that
// keep random numbers, names or times of their own and have to renew them.
package hook

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
)

const (
	// each and all bound the time of one hook and of all of them: somebody waits for the guest, and the host no longer
	// than all and half a minute.
	each, all = 30 * time.Second, 60 * time.Second
	// maxOutput is how much of a hook's output is kept, and maxHooks how many there may be: the host takes 64 KiB of an answer.
	maxOutput, maxHooks = 1 << 10, 16
)

// Ran is one hook that was run.
type Ran struct {
	Name   string
	Output string // the beginning of it
	Err    error  // it could not be started, failed, or took too long
	Took   time.Duration
}

// Runner runs hooks.
type Runner struct {
	Reaper *reap.Reaper
	Dir    string        // empty for no hooks
	Limit  time.Duration // of one hook; 0 for each
}

// Run runs the executable files in Dir, as root and in the order of their names, one after the other. It stops after the first that
// fails. A hook that takes too long is killed, with all that it started; what one leaves running goes on. Without that folder there is nothing to run.
func (r Runner) Run() []Ran {
	names, err := hooks(r.Dir)
	if err != nil {
		return []Ran{{Name: filepath.Base(r.Dir), Err: err}}
	}
	var ran []Ran
	end := time.Now().Add(all)
	for _, name := range names {
		start := time.Now()
		output, err := r.run(filepath.Join(r.Dir, name), min(cmp.Or(r.Limit, each), time.Until(end)))
		ran = append(ran, Ran{Name: name, Output: output, Err: err, Took: time.Since(start)})
		if err != nil {
			break
		}
	}
	return ran
}

func hooks(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if dir == "" || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		info, err := os.Stat(filepath.Join(dir, entry.Name()))
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			names = append(names, entry.Name())
		}
	}
	if len(names) > maxHooks {
		return nil, fmt.Errorf("%s has %d hooks, more than %d", dir, len(names), maxHooks)
	}
	return names, nil
}

// run keeps the output in memory and not in a pipe, which what outlives the hook would find broken.
func (r Runner) run(path string, limit time.Duration) (string, error) {
	fd, err := unix.MemfdCreate("hook", unix.MFD_CLOEXEC)
	if err != nil {
		return "", err
	}
	out := os.NewFile(uintptr(fd), "hook")
	defer func() { _ = out.Close() }()
	child, err := r.Reaper.Start(&exec.Cmd{
		Path: path, Args: []string{path}, Dir: "/", Stdout: out, Stderr: out,
		Env:         []string{"PATH=" + process.DefaultPath, "HOME=/root", "USER=root", "LOGNAME=root", "LANG=C.UTF-8"},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return "", err
	}
	err = await(child, limit)
	text, _ := io.ReadAll(io.NewSectionReader(out, 0, maxOutput))
	return strings.ToValidUTF8(string(text), "?"), err
}

func await(child *reap.Child, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-child.Done():
	case <-timer.C:
		err := child.KillTree()
		<-child.Done()
		return errors.Join(fmt.Errorf("it has not ended within %s", limit.Round(time.Millisecond)), err)
	}
	status, _, err := child.Wait()
	switch {
	case err != nil:
		return err
	case status.Signaled():
		return fmt.Errorf("it was ended by signal %d", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("it ended with status %d", status.ExitStatus())
	}
	return nil
}
