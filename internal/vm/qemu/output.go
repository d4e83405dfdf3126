package qemu

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// What QEMU itself says goes through a pipe into a log, both in the VM's folder. The log is bounded because a hostile guest
// can make QEMU complain about it again and again.
const (
	ownPipe    = "vmm.pipe"
	ownLog     = "vmm.log"
	ownLogSize = 32 << 10
)

// outputs keeps what the guest writes to its console and what QEMU writes about itself.
type outputs struct {
	console, own         *vm.Log
	consoleTail, ownTail vm.Tail
	reader, writer       *os.File // of QEMU's own output; writer is for QEMU

	group sync.WaitGroup
	conn  net.Conn // the console's; nil before keep
}

func openOutputs(dir string) (*outputs, error) {
	o := &outputs{}
	var err error
	if o.console, err = vm.OpenConsole(dir); err != nil {
		return nil, err
	}
	if o.own, err = vm.OpenLog(filepath.Join(dir, ownLog), ownLogSize); err != nil {
		o.console.Close()
		return nil, err
	}
	if o.reader, o.writer, err = vmm.OpenOutput(filepath.Join(dir, ownPipe)); err != nil {
		o.console.Close()
		o.own.Close()
		return nil, err
	}
	return o, nil
}

// keep reads both outputs until they end, or close is called. It takes over conn.
func (o *outputs) keep(conn net.Conn) {
	o.conn = conn
	// What ends the reading, be it close or the end of QEMU, is no news to whoever waits.
	o.group.Go(func() { _ = o.console.Keep(io.TeeReader(conn, &o.consoleTail)) })
	o.group.Go(func() { _ = o.own.Keep(io.TeeReader(o.reader, &o.ownTail)) })
}

// closeWriter must be called once QEMU has its copy, or reading its output never ends.
func (o *outputs) closeWriter() { o.writer.Close() }

// close ends the reading at once, waits for it, and returns the first failure to keep something.
func (o *outputs) close() error {
	o.cut()
	o.group.Wait()
	err := o.console.Close()
	if ownErr := o.own.Close(); err == nil {
		err = ownErr
	}
	return err
}

func (o *outputs) cut() {
	if o.conn != nil {
		o.conn.Close()
	}
	o.reader.Close()
}

// waiting is what QEMU says of every socket with wait=on, also when a connection waits there already.
var waiting = regexp.MustCompile(`(?m)^.*: info: QEMU waiting for connection on: .*$`)

// lastWords returns what QEMU said of itself, if anything.
func (o *outputs) lastWords() string {
	return vm.LastWords(waiting.ReplaceAll(o.ownTail.Bytes(), nil), 3)
}
