package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
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

// insideEnv marks a copy of this process that TestMain has started.
const insideEnv = "WRENN_TEST_JAIL_INSIDE"

// TestMain runs the tests in a mount namespace of their own, in a copy of this process: nobody else mounts there, and what could propagate out of
// a jail does, as on hosts where systemd has made all mounts shared.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that started the child, and the namespace is this thread's
	self := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	self.Args[0], self.Env = os.Args[0], append(os.Environ(), insideEnv+"=1")
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := unix.Unshare(unix.CLONE_NEWNS)
	for _, kind := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} { // first it leaves the host's groups of mounts, then it has its own
		err = errors.Join(err, unix.Mount("", "/", "", kind|unix.MS_REC, ""))
	}
	if err = errors.Join(err, self.Run()); err != nil {
		fmt.Fprintln(os.Stderr, "the tests in a mount namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestView(t *testing.T) {
	before := mounts(t)
	view, err := NewView(Contents{Files: sh(t), Devices: []Device{{Path: "/dev/zero", Major: 1, Minor: 5}}})
	must(t, err)
	defer view.Close()
	mine, theirs := filepath.Join(t.TempDir(), "mine"), filepath.Join(t.TempDir(), "theirs")
	must(t, os.WriteFile(mine, []byte("mine\n"), 0o600))
	must(t, os.WriteFile(theirs, []byte("theirs\n"), 0o600))
	must(t, os.Chmod(theirs, 0o666)) // the mount alone protects it
	must(t, errors.Join(os.Chmod(mine, 0o644), Give(mine, 4_000_001)))
	if info, err := os.Stat(mine); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may still have what was given away: %v, %v", info, err)
	}
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
	c.Owner = 0 // to whom permissions mean nothing
	if got := run(t, c, `for file in /vm/theirs /vm/new /new /bin/sh; do (echo x >$file) 2>&- && echo "wrote $file"; done`); got != "" {
		t.Errorf("as root %s", got)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts of the host changed:\n%s\n%s", before, after)
	}
}

// TestViewOfItself: a process finds its own descriptors, and no other process, although many of its user's run outside.
func TestViewOfItself(t *testing.T) {
	view, err := NewView(Contents{Files: sh(t), Self: true})
	must(t, err)
	defer view.Close()
	got := run(t, Confinement{Owner: 4_000_001, View: view}, `for path in /proc/*; do case $path in /proc/[0-9]*) echo number;; *) echo $path;; esac; done
		[ -d /proc/1 ] && echo "sees another"; [ -e /proc/sys ] && echo "sees the kernel"; (echo x >/proc/self/oom_score_adj) 2>&- && echo "wrote"; [ -e /proc/self/fd/1 ] && echo "its own output"`)
	if got != "number\n/proc/self\n/proc/thread-self\nits own output\n" {
		t.Errorf("it said %q", got)
	}
}

// TestViewInAChroot does the same where the root of this program is not that of its mount namespace.
func TestViewInAChroot(t *testing.T) {
	testlane.NeedRoot(t)
	above := t.TempDir()
	dir := filepath.Join(above, "root")
	must(t, tmpfs(above))
	defer func() { must(t, unix.Unmount(above, unix.MNT_DETACH)) }()
	must(t, unix.Mount("", above, "", unix.MS_PRIVATE, "")) // as an initramfs is; pivot_root(2) refuses what is shared
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount("/", dir, "", unix.MS_BIND|unix.MS_REC, ""))
	must(t, unix.Mount("", dir, "", unix.MS_PRIVATE|unix.MS_REC, "")) // else its end is that of all mounts
	self := exec.Command("/proc/self/exe", "-test.run=^(TestView|TestMountsAreRestricted)$", "-test.v")
	self.Env = append(os.Environ(), insideEnv+"=1")
	self.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	output, err := self.CombinedOutput()
	if err != nil || bytes.Count(output, []byte("--- PASS")) != 2 {
		t.Errorf("%v\n%s", err, output)
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	must(t, err)
	return string(text)
}

// TestMountsAreRestricted reads the mount table of a process in a view: what is not said to be so is neither writable nor executable, nowhere are set-user-ID
// programs, and devices are in the view's own folder alone.
func TestMountsAreRestricted(t *testing.T) {
	view, err := NewView(Contents{Files: sh(t)})
	must(t, err)
	defer view.Close()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	hold(t, Confinement{Owner: 4_000_003, View: view, Binds: []Bind{{From: dir, To: Own + "/others"}}}) // of which the next one has nothing
	process := hold(t, Confinement{Owner: 4_000_004, View: view, Binds: []Bind{{From: dir, To: Own + "/data"}, {From: dir, To: Own + "/disk", Writable: true}}})
	table := process.read(t, "mountinfo")
	found := map[string]string{}
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		found[fields[4]] = options(fields[5])
	}
	for on, want := range map[string]string{
		"/": "nosuid,noexec,ro", "/bin/sh": "nosuid,nodev,ro", Own: "nosuid,noexec,ro", Own + "/data": "nosuid,nodev,noexec,ro", Own + "/disk": "nosuid,nodev,noexec,rw",
	} {
		if found[on] != want {
			t.Errorf("%s is mounted %q, want %q", on, found[on], want)
		}
	}
	if n := strings.Count(table, "\n"); n != len(found) || n != len(sh(t))+4 {
		t.Errorf("its mounts are\n%s", table)
	}
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts"} {
		its, err := os.Readlink(process.dir + "/ns/" + kind)
		must(t, err)
		if ours, err := os.Readlink("/proc/self/ns/" + kind); err != nil || ours == its {
			t.Errorf("it has our %s (%v)", its, err)
		}
	}
}

// options returns those of a mount that matter here, always in one order.
func options(text string) string {
	all := strings.Split(text, ",")
	known := []string{"nosuid", "nodev", "noexec", "ro", "rw"}
	return strings.Join(slices.DeleteFunc(known, func(option string) bool { return !slices.Contains(all, option) }), ",")
}

// TestPrivileges reads the status of a process that sees the host's file system. (Its limits can be set where root is allowed to: package vmtest looks at them.)
func TestPrivileges(t *testing.T) {
	testlane.NeedRoot(t)
	const none = "0000000000000000"
	process := hold(t, Confinement{Owner: 4_000_005})
	status := process.read(t, "status")
	for _, line := range []string{
		"Uid:\t4000005\t4000005\t4000005\t4000005", "Gid:\t4000005\t4000005\t4000005\t4000005", "Groups:\t ", "NoNewPrivs:\t1",
		"CapInh:\t" + none, "CapPrm:\t" + none, "CapEff:\t" + none, "CapBnd:\t" + none, "CapAmb:\t" + none,
	} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("it lacks %q:\n%s", line, status)
		}
	}
}

// TestBornInItsCgroup holds that a process is in its cgroup from its birth.
func TestBornInItsCgroup(t *testing.T) {
	testlane.NeedRoot(t)
	root := cgroup2(t)
	dir, err := os.MkdirTemp(root, "wrenn-test")
	must(t, err)
	t.Cleanup(func() { must(t, os.Remove(dir)) })
	process := hold(t, Confinement{Owner: 4_000_006, Cgroup: dir})
	if got := process.read(t, "cgroup"); !strings.Contains(got, "0::/"+filepath.Base(dir)+"\n") {
		t.Errorf("it is in %s", got)
	}
}

func cgroup2(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(mounts(t)) {
		if mount, filesystem, _ := strings.Cut(line, " - "); strings.HasPrefix(filesystem, "cgroup2 ") {
			return strings.Fields(mount)[4]
		}
	}
	testlane.Missing(t, "cgroup v2 is not mounted")
	return ""
}

// TestBindFollowsNoLink holds that a link in the place of a mount does not lead it elsewhere.
func TestBindFollowsNoLink(t *testing.T) {
	testlane.NeedRoot(t)
	dir := t.TempDir()
	file, target, link := filepath.Join(dir, "file"), filepath.Join(dir, "target"), filepath.Join(dir, "link")
	must(t, errors.Join(os.WriteFile(file, []byte("file"), 0o600), os.WriteFile(target, []byte("target"), 0o600), os.Symlink(target, link)))
	c := Confinement{Binds: []Bind{{From: file, To: link}}}
	_, err := c.Start(func(attr *syscall.SysProcAttr) (*os.Process, error) {
		text, err := exec.Command("/bin/cat", target).Output() // inherits this thread's mounts
		if string(text) != "target" {
			t.Errorf("the link led the mount to its target: %q, %v", text, err)
		}
		return nil, errors.New("it was mounted")
	})
	if err == nil {
		t.Error("a link was taken")
	}
}

// held is a process in a jail that does nothing.
type held struct{ dir string }

func hold(t *testing.T, c Confinement) held {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	process, err := c.Start(func(attr *syscall.SysProcAttr) (*os.Process, error) {
		return os.StartProcess("/bin/sh", []string{"sh", "-c", "read line"}, &os.ProcAttr{Dir: "/", Env: []string{}, Files: []*os.File{r, nil, nil}, Sys: attr})
	})
	r.Close()
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()); _, err := process.Wait(); must(t, err) })
	return held{fmt.Sprintf("/proc/%d", process.Pid)}
}

func (h held) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, name))
	must(t, err)
	return string(text)
}

// TestThreadsOfThisProgramStayFree holds that what is done to a thread for a process reaches no other one.
func TestThreadsOfThisProgramStayFree(t *testing.T) {
	view, err := NewView(Contents{Files: sh(t)})
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

func TestAbove(t *testing.T) {
	if kept := above([]Bind{{To: "/a"}, {To: "/a/b"}, {To: "/ab"}}); len(kept) != 2 || kept[0].To != "/a" || kept[1].To != "/ab" {
		t.Errorf("kept %v", kept)
	}
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
