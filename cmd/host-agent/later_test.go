package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/fctest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// guestPort is where envd listens in a guest.
const guestPort = 49983

// standInGuest is a guest with something in its memory, whose envd does what it is asked and tells the sum of that.
func standInGuest(h fctest.Hardware) {
	memory := h.Saved
	if memory == nil {
		memory = make([]byte, 5<<20)
		rand.Read(memory) // never fails
	}
	h.Keep(func() []byte { return memory })
	l, err := h.Listen(guestPort)
	if err != nil {
		fmt.Fprintln(h.Console, err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/resume", func(w http.ResponseWriter, _ *http.Request) {
		steps := []map[string]any{}
		for _, name := range []string{"clock", "randomness", "machine_id", "hostname", "mac", "address", "dns", "token"} {
			steps = append(steps, map[string]any{"name": name, "ok": true})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "steps": steps})
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, _ *http.Request) {
		sum := sha256.Sum256(memory)
		_, _ = io.WriteString(w, hex.EncodeToString(sum[:]))
	})
	_ = (&http.Server{Handler: mux}).Serve(l) // until the VM ends
}

// TestWokenBeforeItsMemory: an agent with Firecracker, for which the strict server stands in, wakes sandboxes from the object store before their memory is here. Whatever of agent and pager is
// killed then, and where the store goes away, they go on, or sleep as they were stored, and have the memory that they had.
func TestWokenBeforeItsMemory(t *testing.T) {
	testlane.NeedRoot(t)
	if f, err := uffd.Create(uffd.EventRemove); err != nil {
		testlane.Missing(t, "this host has no userfaultfd: "+err.Error())
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s := &sleepy{process: newProcess(t, firecracker.Name, standIns(t)...), sb: id.NewSandbox()}
	s.start()
	if _, err := s.client.Create(t.Context(), hostclient.NewSandbox{ID: s.sb, Template: "tiny", Size: models.Size{VCPUs: 1, MemoryMiB: 128}}); err != nil {
		t.Fatal(err)
	}
	s.sum = s.guestSum()

	s.rewoken() // and goes on until all is here
	s.awaitMemory()
	s.whole()

	pager := s.hold()
	s.kill()
	s.start()
	s.whole()
	must(t, syscall.Kill(pager, syscall.SIGCONT))
	s.awaitMemory()
	s.whole()

	must(t, syscall.Kill(s.hold(), syscall.SIGKILL))
	s.sleepsAgain()

	must(t, syscall.Kill(s.hold(), syscall.SIGKILL))
	s.kill() // perhaps before it has seen it, perhaps after
	s.start()
	s.sleepsAgain()

	pager = s.hold()
	s.kill()
	must(t, syscall.Kill(pager, syscall.SIGKILL)) // while there is no agent
	s.start()
	s.sleepsAgain()

	s.awaitMemory()
	s.hibernated()
	s.fetch()
	away := s.objects() + ".away"
	must(t, os.Rename(s.objects(), away))
	if _, err := s.client.Resume(t.Context(), s.sb); err == nil || !strings.Contains(err.Error(), "memory could not be brought back") {
		t.Errorf("resume, when the store is gone: %v", err)
	}
	must(t, os.RemoveAll(s.objects())) // who looked for it has made another one
	must(t, os.Rename(away, s.objects()))
	s.sleepsAgain()

	if err := s.client.Destroy(t.Context(), s.sb, 0); err != nil {
		t.Fatal(err)
	}
	s.checkNothingLeft()
	s.eventually("no pager is left", func() error {
		if left := s.pagers(); len(left) > 0 {
			return fmt.Errorf("there are %v", left)
		}
		return nil
	})
}

// standIns makes a host: its namespace, its Firecracker and jailer, which are this program, a kernel and a template.
func standIns(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	dir, err := os.MkdirTemp(filepath.Dir(self), "host") // where links to it are possible
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	for _, name := range []string{"firecracker", "jailer"} { // no symbolic links, which the driver would resolve
		must(t, os.Link(self, filepath.Join(dir, name)))
	}
	template := filepath.Join(dir, "images", "tiny")
	must(t, os.MkdirAll(template, 0o700))
	manifest, err := json.Marshal(filesystem.Manifest{Name: "tiny", Digest: "sha256:0123456789abcdef", DiskMiB: 1, DefaultUser: "user"})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(template, filesystem.ManifestName), manifest, 0o600))
	must(t, os.WriteFile(filepath.Join(template, "rootfs.ext4"), make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "vmlinux"), fctest.Kernel(), 0o644))
	namespace := filepath.Join(dir, "netns")
	must(t, netns.Create(namespace))
	t.Cleanup(func() { must(t, netns.Delete(namespace)) })
	return []string{
		"PATH=" + dir + ":" + os.Getenv("PATH"), "WRENN_NETNS=" + namespace, "WRENN_GOLDEN_MIB=0",
		"WRENN_GUEST_KERNEL=" + filepath.Join(dir, "vmlinux"), "WRENN_GUEST_IMAGES=" + filepath.Join(dir, "images"),
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sleepy is a sandbox that sleeps in the object store again and again.
type sleepy struct {
	*process
	sb  id.Sandbox
	key string
	sum string // of what is in its memory
}

// hibernated stores a sandbox that runs, and lets go of it.
func (s *sleepy) hibernated() {
	s.t.Helper()
	if _, err := s.client.Pause(s.t.Context(), s.sb); err != nil {
		s.t.Fatal(err)
	}
	stored, err := s.client.Store(s.t.Context(), s.sb)
	if err != nil || stored.Archive == nil {
		s.t.Fatalf("store: %+v, %v", stored, err)
	}
	s.key = stored.Archive.Key
	if err := s.client.Release(s.t.Context(), s.sb, s.key); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sleepy) fetch() {
	s.t.Helper()
	if _, err := s.client.Fetch(s.t.Context(), s.sb, s.key, models.DefaultNetwork()); err != nil {
		s.t.Fatal(err)
	}
}

// rewoken hibernates a sandbox that runs, and wakes it without its memory.
func (s *sleepy) rewoken() {
	s.t.Helper()
	s.hibernated()
	s.fetch()
	s.wake()
}

func (s *sleepy) wake() {
	s.t.Helper()
	if _, err := s.client.Resume(s.t.Context(), s.sb); err != nil {
		s.t.Fatal(err)
	}
	s.whole()
}

// later are the marks of snapshots whose memory is still to come.
func (s *sleepy) later() []string {
	found, err := filepath.Glob(filepath.Join(s.data, "sandboxes", string(s.sb), "snapshots", "*", "later.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

func (s *sleepy) awaitMemory() {
	s.t.Helper()
	s.eventually("its memory is here", func() error {
		if left := s.later(); len(left) > 0 {
			return fmt.Errorf("there is %v", left)
		}
		return nil
	})
}

// sleepsAgain waits until a sandbox sleeps as it was stored, and wakes it.
func (s *sleepy) sleepsAgain() {
	s.t.Helper()
	s.eventually("it sleeps again", func() error {
		now, err := s.client.Sandbox(s.t.Context(), s.sb)
		if err == nil && (now.State != hostclient.Paused || now.Archive == nil || now.Archive.Key != s.key || !strings.Contains(now.Reason, "memory")) {
			err = fmt.Errorf("it is %+v", now)
		}
		return err
	})
	s.wake()
}

// whole fails the test unless the guest has in its memory what it had.
func (s *sleepy) whole() {
	s.t.Helper()
	if got := s.guestSum(); got != s.sum {
		s.t.Errorf("what is in its memory has the sum %s, and had %s", got, s.sum)
	}
}

func (s *sleepy) guestSum() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.client.Tunnel(ctx, s.sb) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://guest/sum", nil)
	must(s.t, err)
	resp, err := client.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return string(text)
}

// pagers are the processes that bring memory to VMs of this agent.
func (s *sleepy) pagers() (pids []int) {
	s.t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(s.t, err)
	for _, path := range lines {
		text, err := os.ReadFile(path)
		folder, _ := os.Readlink(filepath.Join(filepath.Dir(path), "cwd"))
		if err != nil || !strings.HasSuffix(string(text), "\x00"+pagerVerb+"\x00") || !strings.HasPrefix(folder, s.data) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		must(s.t, err)
		pids = append(pids, pid)
	}
	return pids
}

// hold stops the process that brings the memory, in the seconds in which it looks what the guest comes to, and returns it. Where it comes too late for that, the sandbox is
// woken once more.
func (s *sleepy) hold() (pid int) {
	s.t.Helper()
	for range 20 {
		pids := s.pagers()
		if len(pids) == 1 && syscall.Kill(pids[0], syscall.SIGSTOP) == nil {
			_, err := os.Stat(filepath.Join(s.data, "sandboxes", string(s.sb), "run", "pager.end"))
			if os.IsNotExist(err) && len(s.later()) == 1 {
				return pids[0]
			}
			must(s.t, syscall.Kill(pids[0], syscall.SIGCONT))
		}
		s.rewoken()
	}
	s.t.Fatal("nobody brings its memory")
	return 0
}
