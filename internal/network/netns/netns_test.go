package netns_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// enterPath, when set in the environment, turns the test binary into a program that moves
// itself into that namespace and says where its threads are then.
const enterPath = "WRENN_TEST_NETNS_ENTER"

func TestMain(m *testing.M) {
	if path := os.Getenv(enterPath); path != "" {
		if err := netns.EnterAndReexec(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		report()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// report prints the arguments, the marker and the namespaces of many threads.
func report() {
	fmt.Println(os.Args[1:], os.Getenv("WRENN_NETNS_ENTERED"))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { fmt.Println(where()) })
	}
	all.Wait()
}

func where() string {
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err.Error()
	}
	return link
}

// inside returns the namespace that path leads to, as where does.
func inside(t *testing.T, path string) (link string) {
	t.Helper()
	if err := netns.Do(path, func() error { link = where(); return nil }); err != nil {
		t.Fatal(err)
	}
	return link
}

func create(t *testing.T) string {
	t.Helper()
	testlane.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "run", "ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestCreateDoDelete(t *testing.T) {
	path, home := create(t), where()
	if err := netns.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	if there := inside(t, path); there == home || !strings.HasPrefix(there, "net:[") {
		t.Errorf("inside %s, outside %s", there, home)
	}
	if where() != home {
		t.Error("Do did not come back")
	}
	for range 2 {
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := netns.Do(path, func() error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted, and still to be entered: %v", err)
	}
}

func TestDoPassesErrorsAndPanicsOn(t *testing.T) {
	path, home := create(t), where()
	want := errors.New("mine")
	if err := netns.Do(path, func() error { return want }); !errors.Is(err, want) {
		t.Errorf("error = %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic got lost")
			}
		}()
		_ = netns.Do(path, func() error { panic("mine") })
	}()
	if where() != home {
		t.Error("Do did not come back")
	}
}

func TestDoWithinDo(t *testing.T) {
	outer, inner := create(t), create(t)
	want := inside(t, outer)
	err := netns.Do(outer, func() error {
		if there := inside(t, inner); there == want {
			t.Error("the inner namespace is the outer one")
		}
		if where() != want {
			t.Error("the inner Do did not come back to the outer namespace")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestLoopbackWorksAndIsApart(t *testing.T) {
	path := create(t)
	var l net.Listener
	err := netns.Do(path, func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			err = c.Close()
		}
		return err
	}
	if err := netns.Do(path, dial); err != nil {
		t.Errorf("inside: %v", err)
	}
	if dial() == nil {
		t.Error("a listener inside was reached from outside")
	}
}

func TestStaleFilesAndForeignOnes(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	stale, foreign := filepath.Join(dir, "stale"), filepath.Join(dir, "foreign")
	for path, content := range map[string]string{stale: "", foreign: "a user's file"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := netns.Create(stale); err != nil {
		t.Errorf("onto an empty file: %v", err)
	}
	if err := netns.Delete(stale); err != nil {
		t.Error(err)
	}
	if err := netns.Create(foreign); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a file with content: %v", err)
	}
	if err := netns.Delete(foreign); err == nil {
		t.Error("a user's file was taken for a namespace")
	}
	if err := netns.Do(foreign, func() error { return nil }); err == nil {
		t.Error("a user's file was entered")
	}
	if got, err := os.ReadFile(foreign); err != nil || string(got) != "a user's file" {
		t.Errorf("now %q, %v", got, err)
	}
}

func TestStart(t *testing.T) {
	path := create(t)
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := netns.Start(path, cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(out.String()), inside(t, path); got != want {
		t.Errorf("the process ran in %s, want %s", got, want)
	}
}

// A process that was in the namespace and died does not keep Delete from its work.
func TestDeleteWhileInUse(t *testing.T) {
	path := create(t)
	cmd := exec.Command("sleep", "600")
	if err := netns.Start(path, cmd); err != nil {
		t.Fatal(err)
	}
	if err := netns.Delete(path); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // says that it was killed
	if err := netns.Create(path); err != nil {
		t.Errorf("anew under the same name: %v", err)
	}
}

func TestEnterAndReexec(t *testing.T) {
	path := create(t)
	cmd := exec.Command(os.Args[0], "--flag", "two words")
	cmd.Env = append(os.Environ(), enterPath+"="+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if lines[0] != "[--flag two words] " {
		t.Errorf("arguments and marker = %q", lines[0])
	}
	want := inside(t, path)
	for _, got := range lines[1:] {
		if got != want {
			t.Errorf("a thread is in %s, want %s", got, want)
		}
	}
	if len(lines) != 21 {
		t.Errorf("%d lines", len(lines))
	}
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), enterPath+"="+path+"/none")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("entered a namespace that does not exist: %s", out)
	}
}
