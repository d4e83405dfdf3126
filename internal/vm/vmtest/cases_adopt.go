package vmtest

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

func releaseAndAdopt(w *world) {
	running := w.boot(w.spec())
	saved := running.Saved()
	w.must(running.Release())
	w.must(running.Release())
	if _, err := running.Dial(w.ctx(), guestapp.HTTPPort); !errors.Is(err, vm.ErrReleased) {
		w.Errorf("Dial after Release: %v, want ErrReleased", err)
	}
	if _, err := running.Kill(); !errors.Is(err, vm.ErrReleased) {
		w.Errorf("Kill after Release: %v, want ErrReleased", err)
	}
	again := w.adopt(saved)
	w.checkHealth(again)
	if diff := cmp.Diff(saved, again.Saved()); diff != "" {
		w.Errorf("Saved changed by the adoption:\n%s", diff)
	}
	exit, err := again.Stop(w.ctx(), w.askToShutDown(again))
	w.must(err)
	if exit.Signal != 0 || !exit.Asked {
		w.Errorf("exit of an adopted VM: %+v, want an orderly one", exit)
	}
	w.checkEnded(again, exit)
}

// cutAndRedial ends the agent's side in the middle of transfers, again and again.
func cutAndRedial(w *world) {
	running := w.boot(w.spec())
	for range 20 {
		conn := w.dial(running, guestapp.EchoPort)
		_, err := conn.Write(make([]byte, 100_000)) // of which the answer is never read
		w.must(err)
		saved := running.Saved()
		w.must(running.Release())
		if _, err := io.Copy(io.Discard, conn); err == nil {
			_, err = conn.Write([]byte("x"))
			if err == nil {
				w.Error("a connection outlived Release")
			}
		}
		conn.Close()
		running = w.adopt(saved)
		w.checkHealth(running)
	}
}

// adoptAfterAgentDeath has another process start a VM and be killed.
func adoptAfterAgentDeath(w *world) {
	spec := w.spec()
	saved := w.runChild(order{Act: actStart, Spec: spec})
	running := w.adopt(saved)
	w.checkHealth(running)
	exit, err := running.Kill()
	w.must(err)
	if !exit.Asked || exit.Known && exit.Signal != int(syscall.SIGKILL) {
		w.Errorf("exit of an adopted VM: %+v", exit)
	}
	w.checkEnded(running, exit)
}

// adoptByAnotherAgent lets go of a VM, which another process adopts before it is killed.
func adoptByAnotherAgent(w *world) {
	running := w.boot(w.spec())
	saved := running.Saved()
	w.must(running.Release())
	if diff := cmp.Diff(saved, w.runChild(order{Act: actAdopt, Saved: saved})); diff != "" {
		w.Errorf("Saved changed by the adoption:\n%s", diff)
	}
	w.checkHealth(w.adopt(saved))
}

func adoptGone(w *world) {
	running := w.boot(w.spec())
	saved := running.Saved()
	_, err := running.Kill()
	w.must(err)
	w.checkGone("a VM that was killed", saved)

	running = w.boot(w.spec())
	saved = running.Saved()
	w.must(running.Release())
	again := w.adopt(saved)
	w.call(again, http.MethodPost, "/restart", nil)
	w.waitDone(again)
	w.checkGone("a VM that ended itself", saved)
}

func (w *world) checkGone(what string, saved vm.Saved) {
	w.Helper()
	running, err := w.subject.Driver.Adopt(w.ctx(), saved)
	if !errors.Is(err, vm.ErrGone) {
		w.Errorf("Adopt of %s: %v, want ErrGone", what, err)
	}
	if err == nil {
		w.keep(running)
	}
}

// adoptImpostor offers processes that are not the VM, and holds that they come to no harm.
func adoptImpostor(w *world) {
	running := w.boot(w.spec())
	saved := running.Saved()

	foreign := saved
	foreign.StartTime++
	w.checkGone("a recycled pid", foreign)
	foreign = saved
	foreign.BootID = strings.Repeat("0", len(saved.BootID))
	w.checkGone("another boot's VM", foreign)
	foreign = saved
	foreign.PID = os.Getpid()
	w.checkGone("this very process", foreign)

	bystander := exec.CommandContext(w.ctx(), "sleep", "600")
	w.must(bystander.Start())
	foreign.PID = bystander.Process.Pid
	w.checkGone("a bystander", foreign)
	w.must(bystander.Process.Signal(syscall.Signal(0)))
	w.must(bystander.Process.Kill())
	_ = bystander.Wait()
	w.checkGone("a pid that is free", foreign)
	w.checkHealth(running)
}
