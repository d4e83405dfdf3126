package server_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// usage is what a leak would make grow.
type usage struct{ goroutines, files, children int }

func measure(t testing.TB) usage {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return usage{goroutines: runtime.NumGoroutine(), files: len(files), children: countChildren(t)}
}

func countChildren(t testing.TB) int {
	t.Helper()
	count := 0
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		words := bufio.NewScanner(bytes.NewReader(text))
		words.Split(bufio.ScanWords)
		for words.Scan() {
			count++
		}
	}
	return count
}

// noMoreThan checks that usage comes back to before.
func noMoreThan(t testing.TB, before usage) {
	t.Helper()
	eventually(t, func() error {
		if now := measure(t); now.goroutines > before.goroutines || now.files > before.files || now.children > before.children {
			return fmt.Errorf("%+v is left, it was %+v", now, before)
		}
		return nil
	})
}
