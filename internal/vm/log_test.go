package vm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func openConsole(t *testing.T, dir string) *Log {
	t.Helper()
	log, err := OpenConsole(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

func readConsole(t *testing.T, dir string) string {
	t.Helper()
	text, err := ReadConsole(dir)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestConsoleOfAVMThatNeverRan(t *testing.T) {
	if got := readConsole(t, t.TempDir()); got != "" {
		t.Errorf("console %q", got)
	}
}

// TestConsoleKeepsTheEnd writes several times what the files hold, in pieces of many sizes.
func TestConsoleKeepsTheEnd(t *testing.T) {
	dir := t.TempDir()
	log := openConsole(t, dir)
	var all bytes.Buffer
	for i := 0; all.Len() < 5*ConsoleFileSize; i++ {
		piece := fmt.Appendf(nil, "line %d%s\n", i, strings.Repeat(".", i*7919%100_000))
		all.Write(piece)
		if n, err := log.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	got := readConsole(t, dir)
	if len(got) < ConsoleFileSize || len(got) > 2*ConsoleFileSize || !strings.HasSuffix(all.String(), got) {
		t.Errorf("%d bytes are kept, want the last %d to %d of what was written", len(got), ConsoleFileSize, 2*ConsoleFileSize)
	}
	for _, name := range []string{ConsoleFile, ConsoleFile + previous} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Size() > ConsoleFileSize {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestConsoleGoesOnWhereItEnded(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		log := openConsole(t, dir)
		_, _ = fmt.Fprintf(log, "agent %d\n", i)
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		_, _ = log.Write([]byte("lost"))
	}
	if got, want := readConsole(t, dir), "agent 0\nagent 1\nagent 2\n"; got != want {
		t.Errorf("console %q, want %q", got, want)
	}
}

// TestReadWhileWritten holds that a reader sees a part of the text without a gap, whatever is rotated meanwhile.
func TestReadWhileWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const limit = 1000
	log, err := OpenLog(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var writing sync.WaitGroup
	stop := make(chan struct{})
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = fmt.Fprintf(log, "%09d\n", i)
			}
		}
	})
	for range 500 {
		text, err := ReadLog(path, limit)
		if err != nil {
			t.Error(err)
			break
		}
		if gap := findGap(text); gap != "" && len(text) <= 2*limit {
			t.Errorf("out of order: %s", gap)
			break
		}
	}
	close(stop)
	writing.Wait()
}

// findGap looks for consecutive complete lines that are not consecutive numbers.
func findGap(text []byte) string {
	lines := bytes.Split(text, []byte("\n"))
	last := -1
	for _, line := range lines {
		var n int
		if _, err := fmt.Sscanf(string(line), "%09d", &n); err != nil || len(line) != 9 {
			continue
		}
		if last >= 0 && n != last+1 {
			return fmt.Sprintf("%d after %d", n, last)
		}
		last = n
	}
	return ""
}

// TestFullDiskHoldsNobodyUp makes every write fail, with a folder in the file's place.
func TestFullDiskHoldsNobodyUp(t *testing.T) {
	dir := t.TempDir()
	log := openConsole(t, dir)
	_, _ = log.Write(make([]byte, ConsoleFileSize))
	if err := os.MkdirAll(filepath.Join(dir, ConsoleFile+previous, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	kept := make(chan error)
	go func() { kept <- log.Keep(reader) }()
	for range 100 {
		if _, err := writer.Write(make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, ConsoleFile+previous)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(writer, "there is room again")
	writer.Close()
	if err := <-kept; err != nil {
		t.Errorf("Keep: %v", err)
	}
	if got := readConsole(t, dir); !strings.HasSuffix(got, "there is room again") {
		t.Errorf("the console ends with %q", got[max(0, len(got)-40):])
	}
	if err := log.Close(); err == nil {
		t.Error("Close does not say that output was lost")
	}
}

func TestOpenConsoleWithoutFolder(t *testing.T) {
	if _, err := OpenConsole(filepath.Join(t.TempDir(), "not")); err == nil {
		t.Error("no error")
	}
}

func TestTail(t *testing.T) {
	var tail Tail
	var all []byte
	for i := range 100 {
		piece := bytes.Repeat([]byte{byte(i)}, i*97%5000)
		all = append(all, piece...)
		_, _ = tail.Write(piece)
		if got := tail.Bytes(); !bytes.Equal(got, all[max(0, len(all)-tailSize):]) {
			t.Fatalf("after %d pieces the tail has %d bytes that are not the last ones", i, len(got))
		}
	}
	_, _ = tail.Write(make([]byte, 10*tailSize))
	if got := tail.Bytes(); !bytes.Equal(got, make([]byte, tailSize)) {
		t.Errorf("after one long write the tail has %d bytes", len(got))
	}
}

// TestLogIsNotLedElsewhere: a VMM that puts something else in the place of its console gets nothing written or read by it.
func TestLogIsNotLedElsewhere(t *testing.T) {
	for name, plant := range map[string]func(path, elsewhere string) error{
		"link":     func(path, elsewhere string) error { return os.Symlink(elsewhere, path) },
		"dangling": func(path, _ string) error { return os.Symlink(filepath.Join(filepath.Dir(path), "made"), path) },
		"pipe":     func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
		"folder":   func(path, _ string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, suffix := range []string{"", ".1"} {
			dir := t.TempDir()
			elsewhere := filepath.Join(dir, "elsewhere")
			path := filepath.Join(dir, ConsoleFile)
			if err := errors.Join(os.WriteFile(elsewhere, []byte("secret"), 0o600), plant(path+suffix, elsewhere)); err != nil {
				t.Fatal(err)
			}
			if text, err := ReadConsole(dir); err == nil || strings.Contains(string(text), "secret") {
				t.Errorf("%s%s: read %q, %v", name, suffix, text, err)
			}
			if suffix != "" {
				continue
			}
			if l, err := OpenConsole(dir); err == nil {
				_, _ = l.Write([]byte("evil"))
				t.Errorf("%s: it was opened; then %v", name, l.Close())
			}
			text, err := os.ReadFile(elsewhere)
			if _, made := os.Stat(filepath.Join(dir, "made")); err != nil || string(text) != "secret" || made == nil {
				t.Errorf("%s: elsewhere there is %q, %v, %v", name, text, err, made)
			}
		}
	}
}
