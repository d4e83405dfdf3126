package durable_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// writerPath, when set in the environment, turns the test binary into a writer that
// replaces that file by versions until it is killed.
const writerPath = "WRENN_TEST_DURABLE_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerPath); path != "" {
		write(path)
	}
	os.Exit(m.Run())
}

func write(path string) {
	for i := 0; ; i++ {
		if err := durable.WriteFile(path, version(i), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if i == 0 {
			fmt.Println("written")
		}
	}
}

// version returns the i-th content: its first byte tells its length and every other byte.
func version(i int) []byte {
	i %= 16
	return bytes.Repeat([]byte{byte(i)}, 1+i*5000)
}

func TestKilledWriterLeavesOneWholeVersion(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	for range 20 {
		killedWriter(t, path)
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || !bytes.Equal(got, version(int(got[0]))) {
			t.Fatalf("a mixture: %d bytes, first %v", len(got), got[:min(len(got), 4)])
		}
		if err := durable.Sweep(dir); err != nil {
			t.Fatal(err)
		}
		wantNames(t, dir, "record")
	}
}

// killedWriter starts a writer, lets it write at least once and kills it at a random moment after.
func killedWriter(t *testing.T, path string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerPath+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Errorf("the writer ended early: %v", err)
	}
	time.Sleep(rand.N(3 * time.Millisecond)) // the random moment, not a wait for anything
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the writer was to run until killed: %v", err)
	}
}
