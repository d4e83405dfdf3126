package pager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// endLimit bounds the end of a VMM whose memory has gone, as that of one that is just ending has.
const endLimit = 10 * time.Second

// Main is a pager's program: it obeys the order that Start gave it, and returns when it has. open makes a Source of what Order.Source says.
func Main(ctx context.Context, open func(context.Context, json.RawMessage) (Source, error)) error {
	order, l, err := orders()
	if err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	defer l.Close()
	process, err := vmm.Adopt(order.VMM)
	if err != nil {
		return err
	}
	defer process.Release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { <-process.Done(); cancel() }() // which never comes after Release: this program ends then
	err = work(ctx, order, l, open)
	if err == nil {
		return durable.WriteJSON(order.End, End{Whole: true}, 0o600)
	}
	return giveUp(process, order, err)
}

func orders() (order Order, l *net.UnixListener, err error) {
	told, socket := os.NewFile(orderFD, "order"), os.NewFile(listenerFD, "socket")
	defer told.Close()
	defer socket.Close()
	if err := json.NewDecoder(told).Decode(&order); err != nil {
		return order, nil, err
	}
	listener, err := net.FileListener(socket)
	if err != nil {
		return order, nil, err
	}
	l, ok := listener.(*net.UnixListener)
	if !ok {
		return order, nil, errors.Join(errors.New("it came with no unix socket"), listener.Close())
	}
	return order, l, nil
}

func work(ctx context.Context, order Order, l *net.UnixListener, open func(context.Context, json.RawMessage) (Source, error)) error {
	source, err := open(ctx, order.Source)
	if err != nil {
		return err
	}
	hurry, leisure := make(chan struct{}), os.NewFile(leisureFD, "leisure")
	go func() { _, _ = leisure.Read(make([]byte, 1)); close(hurry) }() // it ends with this program
	p, err := newPager(order, source, hurry, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	return p.run(ctx, l)
}

// giveUp ends the VMM, for which there is no memory, when it is written down why. One that has ended, and with it its memory, needs neither.
func giveUp(process *vmm.Process, order Order, cause error) error {
	if errors.Is(cause, unix.ESRCH) { // its memory has gone, so it is about to
		select {
		case <-process.Done():
		case <-time.After(endLimit):
		}
	}
	select {
	case <-process.Done():
		return nil
	default:
	}
	err := durable.WriteJSON(order.End, End{Reason: reason(cause)}, 0o600)
	return errors.Join(cause, err, process.Kill(context.Background())) // it has a limit of its own
}

// reason is what a user is told.
func reason(cause error) string {
	const lost = "the VM was ended, since its memory could not be brought back"
	var coded *models.Error
	if errors.As(cause, &coded) {
		return lost + ": " + coded.Message
	}
	return lost
}
