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

// Descriptors of a pager.
const (
	orderFD    = 3
	listenerFD = 4
	leisureFD  = 5
)

// Started is a pager that runs.
type Started struct {
	Process *vmm.Process
	// Leisure is closed by whoever waits for the memory to be whole, and by the end of this program: the pager then no longer looks what the guest
	// comes to by itself.
	Leisure *os.File
}

// Start starts a pager: program is the path of an executable and its arguments, which make it call Main. It runs as this program's user, in a session of its
// own, and ends by itself: when all is there, or with the VMM. The VMM is to connect to the socket l, which stays the caller's; log is what it
// says of its troubles.
func Start(ctx context.Context, program []string, order Order, l *net.UnixListener, log *os.File) (*Started, error) {
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
	its, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the pager: %w", err)
	}
	defer its.Close()
	process, err := vmm.Spawn(ctx, vmm.Command{
		Path: program[0], Args: program[1:], Env: os.Environ(), Dir: filepath.Dir(order.End), Stderr: log, Files: []*os.File{told, socket, its},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the pager: %w", err), ours.Close())
	}
	return &Started{process, ours}, nil
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
