package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
	"github.com/wrenn-sandbox/wrenn/internal/vm/seccomp"
)

// ErrUnfiltered is the error of CheckFilter for a Firecracker that may make any system call.
var ErrUnfiltered = errors.New("its seccomp filter allows every system call")

// filterLimit bounds CheckFilter, which takes some 20 ms on an idle host.
const filterLimit = time.Minute

// CheckFilter starts a Firecracker without a guest, and holds that its seccomp filter refuses what no VMM needs. One that was built for glibc
// has a filter that allows everything: no file of Options.SeccompFilter, no filter. It returns ErrUnfiltered then, seccomp.ErrUnknown where that cannot be
// told, and else why Firecracker does not start, with its own words: it may not like the file.
func (d *Driver) CheckFilter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, filterLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "fc")
	if err != nil {
		return fmt.Errorf("check the seccomp filter: %w", err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, apiSocket)
	var words bytes.Buffer
	cmd := exec.CommandContext(ctx, d.binary, append([]string{"--id", "filter", "--api-sock", socket}, filterArguments(d.filter)...)...)
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("check the seccomp filter of %s: %w", d.binary, err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // its words say more than its status
	err = awaitAPI(ctx, socket, ended)
	if err == nil {
		err = checkThread(cmd.Process.Pid)
	}
	_ = cmd.Process.Kill()
	<-ended
	switch {
	case errors.Is(err, errExited):
		return fmt.Errorf("check the seccomp filter of %s: %w: %s", d.binary, err, vm.LastWords(words.Bytes(), 3))
	case err != nil:
		return fmt.Errorf("check the seccomp filter of %s: %w", d.binary, err)
	}
	return nil
}

// awaitAPI returns when the API answers: its thread has its filter by then, docs/seccomp.md of Firecracker.
func awaitAPI(ctx context.Context, socket string, ended <-chan struct{}) error {
	client := api.New(func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", socket) })
	defer client.Close()
	for b := newBackoff(); ; {
		if _, err := client.Version(ctx); err == nil {
			return nil
		}
		select {
		case <-ended:
			return errExited
		case <-ctx.Done():
			return ctx.Err()
		case <-b.after():
		}
	}
}

// checkThread looks at the thread of the API, whose name is Firecracker's own. No thread of a VMM ever executes a program.
func checkThread(pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		name, err := os.ReadFile(filepath.Join(task, "comm"))
		if err != nil || string(name) != "fc_api\n" {
			continue
		}
		thread, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			return err
		}
		refused, err := seccomp.Refuses(thread, unix.SYS_EXECVE)
		if err == nil && !refused {
			err = ErrUnfiltered
		}
		return err
	}
	return fmt.Errorf("%w: it has no thread fc_api", seccomp.ErrUnknown)
}

// filterArguments are how Firecracker is told of a filter. It is never told to have none.
func filterArguments(file string) []string {
	if file == "" {
		return nil
	}
	return []string{"--seccomp-filter", file}
}
