package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// TestPurgeAfterAStartThatFailed: what an agent that could not start has left goes, also where what it lacked is lacking still.
func TestPurgeAfterAStartThatFailed(t *testing.T) {
	testlane.NeedRoot(t)
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		testlane.Missing(t, "QEMU is not installed")
	}
	data, images, namespace := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "netns")
	broken := filepath.Join(images, "broken", "manifest.json")
	if err := os.MkdirAll(filepath.Dir(broken), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := netns.Create(namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(namespace); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { _ = filesystem.UnmountVolume(context.Background(), data) }) // which is what is tested
	run := func(verb string) (string, error) {
		cmd := exec.Command(os.Args[0], verb, "--data", data, "--listen", "unix://"+filepath.Join(data, "agent.sock"), "--driver", "qemu",
			"--volume-gib", "1", "--subnet", "10.0.0.0/24", "--kernel", "/proc/self/exe", "--images", images, "--netns", namespace)
		cmd.Env = append(os.Environ(), beAgent+"=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("serve"); err == nil || !strings.Contains(out, "take in the template") {
		t.Errorf("it started, or failed otherwise: %v\n%s", err, out)
	}
	if out, err := run("purge"); err != nil {
		t.Errorf("purge: %v\n%s", err, out)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), data) {
		t.Errorf("something is mounted in %s still (%v):\n%s", data, err, mounts)
	}
}
