package vmm

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestOutput(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pipe")
	for range 2 { // the second time the pipe exists
		reader, writer, err := OpenOutput(path)
		if err != nil {
			t.Fatal(err)
		}
		command := shell(dir, "echo one; echo two >&2")
		command.Stdout, command.Stderr = writer, writer
		p := spawn(t, command)
		writer.Close()
		text, err := io.ReadAll(reader)
		if err != nil || string(text) != "one\ntwo\n" {
			t.Errorf("output %q, %v", text, err)
		}
		wait(t, p)
		reader.Close()
	}
}

// TestOutputUnattended lets a process write more than the pipe holds while nobody reads. It must come to its end, and a
// reader that opens the pipe again must get what the process writes then.
func TestOutputUnattended(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pipe")
	reader, writer, err := OpenOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	command := shell(dir, "dd if=/dev/zero bs=1000 count=1000 2>/dev/null; : >flooded; until [ -e read ]; do sleep 0.01; done; echo end")
	command.Stdout = writer
	p := spawn(t, command)
	writer.Close()
	reader.Close()
	await(t, "the flood has ended", func() bool { _, err := os.Stat(filepath.Join(dir, "flooded")); return err == nil })
	reader, writer, err = OpenOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	writer.Close()
	if _, err := io.ReadFull(reader, make([]byte, 10_000)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "read"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(reader)
	if err != nil || len(rest) > 1<<16 {
		t.Errorf("%d more bytes, %v", len(rest), err)
	}
	if s := wait(t, p); s.Signal != 0 {
		t.Errorf("status %+v", s)
	}
}
