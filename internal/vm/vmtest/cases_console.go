package vmtest

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// flood is more than the console files hold. A driver may lose parts of it, as no guest is to be held up by its console.
const flood = "/flood?bytes=600000"

func consoleFlood(w *world) {
	running := w.boot(w.spec())
	w.floodUntilRotated(running)
	w.checkConsole(running)
}

// consoleFloodUnattended floods while no agent is there. The guest must get through, and its console must be kept
// again for the next agent.
func consoleFloodUnattended(w *world) {
	running := w.boot(w.spec())
	w.call(running, http.MethodPost, flood+"&wait=no", nil)
	saved := running.Saved()
	w.must(running.Release())
	running = w.adopt(saved)
	w.floodUntilRotated(running)
	w.checkConsole(running)
}

// floodUntilRotated floods until the older of the two console files has come into being, often at once.
func (w *world) floodUntilRotated(running vm.Running) {
	w.Helper()
	w.eventually("the console was rotated", func() bool {
		w.call(running, http.MethodPost, flood, nil)
		_, err := os.Stat(filepath.Join(running.Saved().Dir, vm.ConsoleFile+".1"))
		return err == nil
	})
}

// checkConsole holds that the console is bounded, that what is written last can be read, and that the guest is well.
func (w *world) checkConsole(running vm.Running) {
	w.Helper()
	dir := running.Saved().Dir
	w.eventually("the last line is in the console", func() bool {
		if strings.HasSuffix(strings.TrimSpace(w.console(dir)), guestapp.FloodEnd) {
			return true
		}
		w.call(running, http.MethodPost, "/flood?bytes=0", nil) // that line may have been lost
		return false
	})
	if text := w.console(dir); len(text) > 2*vm.ConsoleFileSize || len(text) < vm.ConsoleFileSize {
		w.Errorf("the console has %d bytes, want its last %d to %d", len(text), vm.ConsoleFileSize, 2*vm.ConsoleFileSize)
	}
	if total := w.logSize(dir); total > 3*vm.ConsoleFileSize { // the console, and what the VMM says of itself
		w.Errorf("the logs in %s take %d bytes", dir, total)
	}
	w.checkHealth(running)
}

func (w *world) logSize(dir string) int64 {
	w.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*log*"))
	w.must(err)
	var total int64
	for _, path := range logs {
		info, err := os.Stat(path)
		w.must(err)
		total += info.Size()
	}
	return total
}
