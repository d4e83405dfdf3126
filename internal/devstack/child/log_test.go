package child

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := OpenLog(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 500 {
		if _, err := l.Write([]byte("line " + strconv.Itoa(i) + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1000 {
			t.Errorf("%s has %d bytes", p, info.Size())
		}
	}
	old, err := os.ReadFile(path + ".1")
	if err != nil || !strings.HasSuffix(string(old), "line 499\n") {
		t.Errorf("the last lines are lost: %q, %v", old, err)
	}
}

func TestReopenedLogContinues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for range 2 {
		l, err := OpenLog(path, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Write([]byte(strings.Repeat("x", 60))); err != nil {
			t.Fatal(err)
		}
		if got := l.Tail(10); got != strings.Repeat("x", 10) {
			t.Errorf("tail is %q", got)
		}
		l.Close()
	}
	for _, p := range []string{path, path + ".1"} {
		if info, err := os.Stat(p); err != nil || info.Size() != 60 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
}
