package jail

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// sh is what a view needs to show so that a shell runs.
func sh(t *testing.T) []Bind {
	t.Helper()
	testlane.NeedRoot(t)
	output, err := exec.Command("ldd", "/bin/sh").Output()
	must(t, err)
	binds := []Bind{{From: "/bin/sh", To: "/bin/sh", Exec: true}}
	for field := range strings.FieldsSeq(string(output)) {
		if filepath.IsAbs(field) {
			binds = append(binds, Bind{From: field, To: field, Exec: true})
		}
	}
	return binds
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a shell in a jail and returns what it writes.
func run(t *testing.T, c Confinement, script string) string {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	process, err := c.Start(func(attr *syscall.SysProcAttr) (*os.Process, error) {
		return os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Dir: "/", Env: []string{}, Files: []*os.File{nil, w, w}, Sys: attr})
	})
	w.Close()
	must(t, err)
	var output bytes.Buffer
	_, err = output.ReadFrom(r)
	must(t, err)
	_, err = process.Wait()
	must(t, err)
	return output.String()
}

func TestView(t *testing.T) {
	before := mounts(t)
	view, err := NewView(sh(t), []Device{{Path: "/dev/zero", Major: 1, Minor: 5}})
	must(t, err)
	defer view.Close()
	mine, theirs := filepath.Join(t.TempDir(), "mine"), filepath.Join(t.TempDir(), "theirs")
	must(t, os.WriteFile(mine, []byte("mine\n"), 0o600))
	must(t, os.WriteFile(theirs, []byte("theirs\n"), 0o644))
	must(t, Give(mine, 4_000_001))
	c := Confinement{Owner: 4_000_001, View: view, Binds: []Bind{
		{From: mine, To: Own + "/mine", Writable: true}, {From: theirs, To: Own + "/theirs"},
	}}
	got := run(t, c, `read line </vm/mine; echo "$line"; read line </vm/theirs; echo "$line"; echo written >/vm/mine; echo $$
		for file in /vm/theirs /vm/new /new /bin/sh; do (echo x >$file) 2>&- && echo "wrote $file"; done
		for path in /vm/* /dev/* /proc/* /etc/* /home/* /root/*; do [ -e "$path" ] && echo "$path"; done`)
	if got != "mine\ntheirs\n1\n/vm/mine\n/vm/theirs\n/dev/zero\n" {
		t.Errorf("it said %q", got)
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "written\n" {
		t.Errorf("its file holds %q, %v", text, err)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts of the host changed:\n%s\n%s", before, after)
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	must(t, err)
	return string(text)
}

// TestThreadsOfThisProgramStayFree holds that what is done to a thread for a process reaches no other one.
func TestThreadsOfThisProgramStayFree(t *testing.T) {
	view, err := NewView(sh(t), nil)
	must(t, err)
	defer view.Close()
	for range 20 {
		run(t, Confinement{Owner: 4_000_002, View: view}, ":")
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the last ones may be about to end
		jailed := jailedThreads(t)
		if len(jailed) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads %v are jailed too", jailed)
		}
	}
	if err := OnOwnThread(func() error { return unix.Access("/proc/self", unix.R_OK) }); err != nil {
		t.Error(err)
	}
}

// jailedThreads lists the threads of this program that have another root or no_new_privs.
func jailedThreads(t *testing.T) []string {
	t.Helper()
	root, err := os.Stat("/")
	must(t, err)
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	var jailed []string
	for _, task := range tasks {
		dir := filepath.Join("/proc/self/task", task.Name())
		its, errRoot := os.Stat(filepath.Join(dir, "root") + "/")
		status, errStatus := os.ReadFile(filepath.Join(dir, "status"))
		if errRoot == nil && errStatus == nil && (!os.SameFile(root, its) || bytes.Contains(status, []byte("NoNewPrivs:\t1"))) {
			jailed = append(jailed, task.Name())
		}
	}
	return jailed
}

func TestGiveFollowsNoLink(t *testing.T) {
	testlane.NeedRoot(t)
	link := filepath.Join(t.TempDir(), "link")
	target := filepath.Join(t.TempDir(), "target")
	must(t, os.WriteFile(target, nil, 0o644))
	must(t, os.Symlink(target, link))
	if err := Give(link, 4_000_003); err == nil {
		t.Error("a link was followed")
	}
	info, err := os.Stat(target)
	must(t, err)
	if info.Sys().(*syscall.Stat_t).Uid != 0 || info.Mode().Perm() != 0o644 {
		t.Errorf("its target is now %v", info)
	}
}

func TestCheckFree(t *testing.T) {
	etc := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nsomebody:x:200005:100::/:\nbroken\n",
		"group":  "users:x:100:\ncrew:x:300000:\n",
		"subuid": "somebody:100000:65536\nother:400000:65536\nwrenn:600000:65536\n",
	} {
		must(t, os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600))
	}
	for base, want := range map[uint32]string{
		200_000: "somebody", 200_006: "", 299_999: "crew", 300_001: "", 165_530: "somebody", 165_536: "", 465_535: "other", 399_990: "other", 600_000: "",
	} {
		err := CheckFree(etc, base, 100)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("from %d on: %v, want %q", base, err, want)
		}
	}
	if err := CheckFree(filepath.Join(etc, "none"), 1000, 1); err != nil {
		t.Error(err)
	}
}
