package firecracker

import (
	"errors"
	"io"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// logSize bounds each of the two files that keep Firecracker's log. At the level Warning it hardly writes.
const logSize = 64 << 10

// logPrefix is what Firecracker puts before each line: its time, and in brackets its instance and thread.
var logPrefix = regexp.MustCompile(`(?m)^\d{4}-\d{2}-\d{2}T\S+ \[[^\]\n]*\] `)

// outputs are the agent's ends of a VM's pipes and what becomes of what comes out of them. Until the VMM
// was spawned they are its ends too.
type outputs struct {
	console, log, metrics    *os.File
	consoleWriter, logWriter *os.File

	path      string    // of words
	kept      *vm.Log   // the guest's console
	words     *vm.Log   // the VMM's log
	documents documents // the VMM's metrics
	copying   sync.WaitGroup
}

// openOutputs opens the pipes, and makes those that are missing.
func openOutputs(f files) (*outputs, error) {
	o := &outputs{path: f.words}
	if err := o.open(f); err != nil {
		o.spawned()
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func (o *outputs) open(f files) (err error) {
	if o.kept, err = vm.OpenConsole(f.dir); err != nil {
		return err
	}
	if o.words, err = vm.OpenLog(f.words, logSize); err != nil {
		return err
	}
	if o.console, o.consoleWriter, err = vmm.OpenOutput(f.console); err != nil {
		return err
	}
	if o.log, o.logWriter, err = vmm.OpenOutput(f.log); err != nil {
		return err
	}
	// Firecracker opens the metrics by name, later. The end that is a writer too does not see the end of the file before that.
	var reader *os.File
	if reader, o.metrics, err = vmm.OpenOutput(f.metrics); err != nil {
		return err
	}
	return reader.Close()
}

// spawned closes the ends that are the VMM's. The console and the log then end when the VMM does.
func (o *outputs) spawned() {
	for _, f := range []*os.File{o.consoleWriter, o.logWriter} {
		if f != nil {
			f.Close()
		}
	}
}

// keep reads the pipes until close.
func (o *outputs) keep() {
	o.copying.Go(func() { _ = o.kept.Keep(o.console) })
	o.copying.Go(func() { _ = o.words.Keep(o.log) })
	o.copying.Go(func() { _, _ = io.Copy(&o.documents, o.metrics) })
}

// drainLimit bounds how long what an ended VMM left in its pipes may take to be read. It is there in case that
// something else holds a pipe open.
const drainLimit = 5 * time.Second

// drain reads to the end what a VMM that has ended left.
func (o *outputs) drain() {
	limit := time.Now().Add(drainLimit)
	_ = o.console.SetReadDeadline(limit) // pipes can be polled: it does not fail
	_ = o.log.SetReadDeadline(limit)
	_ = o.metrics.SetReadDeadline(time.Unix(1, 0))
	o.copying.Wait()
}

// close ends reading, and frees what is held. What the logs could not keep, for instance on a full disk, is
// no error of the VM's.
func (o *outputs) close() error {
	files := []*os.File{o.console, o.log, o.metrics}
	for _, f := range files {
		if f != nil {
			_ = f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	o.copying.Wait()
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	for _, l := range []*vm.Log{o.kept, o.words} {
		if l != nil {
			l.Close()
		}
	}
	return errors.Join(errs...)
}

// lastWords returns the last n lines of the VMM's log in one, without their prefixes.
func (o *outputs) lastWords(n int) string {
	text, err := vm.ReadLog(o.path, logSize)
	if err != nil {
		return ""
	}
	return vm.LastWords(logPrefix.ReplaceAll(text, nil), n)
}
