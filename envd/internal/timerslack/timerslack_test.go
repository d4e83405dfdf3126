package timerslack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/timerslack"
)

// Every thread is lazy, and a program that one of them starts is not.
func TestSlack(t *testing.T) {
	before := ofThreads(t)
	if err := timerslack.Set(timerslack.Lazy); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := timerslack.Set(timerslack.Normal); err != nil {
			t.Error(err)
		}
	}()
	after := ofThreads(t)
	for thread := range before {
		if slack, alive := after[thread]; alive && slack != "1000000" {
			t.Errorf("thread %s has a slack of %s ns", thread, slack)
		}
	}
	var said strings.Builder
	cat := exec.Command("cat", "/proc/self/timerslack_ns")
	cat.Stdout = &said
	if err := timerslack.For(cat.Run); err != nil {
		t.Fatal(err)
	}
	if said.String() != "50000\n" {
		t.Errorf("a program has a slack of %q ns", said.String())
	}
	for thread, slack := range ofThreads(t) {
		if before[thread] != "" && slack != "1000000" {
			t.Errorf("then thread %s has a slack of %s ns", thread, slack)
		}
	}
}

func ofThreads(t *testing.T) map[string]string {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	slacks := map[string]string{}
	for _, thread := range threads {
		if slack, err := os.ReadFile(filepath.Join("/proc", thread.Name(), "timerslack_ns")); err == nil {
			slacks[thread.Name()] = strings.TrimSpace(string(slack))
		}
	}
	return slacks
}
