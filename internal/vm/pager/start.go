package pager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// Hurry is the signal that tells a pager that somebody waits for the memory to be whole.
const Hurry = unix.SIGUSR1

// Descriptors of a pager.
const (
	orderFD    = 3
	listenerFD = 4
)

// Start starts a pager: program is the path of an executable and its arguments, which make it call Main. It runs as this program's user, in a session of its
// own, and ends by itself: when all is there, or with the VMM. The VMM is to connect to the socket l, which stays the caller's; log is what it
// says of its troubles.
func Start(ctx context.Context, program []string, order Order, l *net.UnixListener, log *os.File) (*vmm.Process, error) {
	told, err := tell(order)
	if err != nil {
		return nil, fmt.Errorf("start the pager: %w", err)
	}
	defer told.Close()
	socket, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("start the pager: %w", err)
	}
	defer socket.Close()
	process, err := vmm.Spawn(ctx, vmm.Command{
		Path: program[0], Args: program[1:], Env: os.Environ(), Dir: filepath.Dir(order.End), Stderr: log, Files: []*os.File{told, socket},
	})
	if err != nil {
		return nil, fmt.Errorf("start the pager: %w", err)
	}
	return process, nil
}

// tell puts an order into a file in memory.
func tell(order Order) (*os.File, error) {
	text, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "order")
	if _, err := f.WriteAt(text, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadEnd says how a pager that has ended did; nothing where it was killed, or ended with its VMM.
func ReadEnd(path string) (End, error) {
	var end End
	err := durable.ReadJSON(path, &end)
	if errors.Is(err, os.ErrNotExist) {
		return End{}, nil
	}
	return end, err
}
