package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/vmtest"
)

const networkArguments = "wrenn.hostname=sb-0123abcd wrenn.ip=10.0.0.2/30 wrenn.gw=10.0.0.1 wrenn.dns=192.0.2.53,192.0.2.54"

func TestMain(m *testing.M) { os.Exit(vmtest.Main(m)) }

// contains fails the test for every text that is not in what.
func contains(t *testing.T, what string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(what, text) {
			t.Errorf("%q is not in:\n%s", text, what)
		}
	}
}

// number is the one number that a probe printed.
func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A guest that has booted is a system in which programs find what they expect.
func TestGuestSystem(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{Arguments: networkArguments, DiskMiB: 300})
	g.Init("")
	contains(t, g.Run("mounts"),
		" / ext4 rw,noatime", " /proc proc ", " /sys sysfs ", " /dev devtmpfs ", " /dev/pts devpts ", "ptmxmode=666",
		" /dev/shm tmpfs ", " /run tmpfs ", " /sys/fs/cgroup cgroup2 ", " /dev/mqueue mqueue ", " /proc/sys/fs/binfmt_misc binfmt_misc ")
	contains(t, g.Run("stat", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx", "/tmp"),
		"/dev/fd Lrwxrwxrwx /proc/self/fd\n", "/dev/stdin L", "/dev/stdout L", "/dev/stderr L", "/dev/ptmx Dcrw-rw-rw-", "/tmp dtrwxrwxrwx")
	if out, exit, err := g.Start("user", "terminal"); exit != 0 || err != nil {
		t.Errorf("no terminal for a user: exit code %d, %v\n%s", exit, err, out)
	}
	contains(t, g.Run("resolve", "sb-0123abcd"), "[127.0.1.1] [10.0.0.2/30] up|", "up|loopback")
	contains(t, g.Run("resolve", "kept"), "[192.0.2.1]")
	contains(t, g.Run("cat", "/etc/resolv.conf", "/proc/sys/kernel/hostname"),
		"nameserver 192.0.2.53\nnameserver 192.0.2.54\n", "\nsb-0123abcd")
	g.Run("ping", "10.0.0.1")
	contains(t, g.Run("cat", "/proc/1/cgroup", "/proc/self/cgroup"), "0::/envd\n0::/user/p")
	contains(t, g.Run("cat", "/proc/1/limits"), "Max open files            65536                1048576")
	contains(t, g.Run("cat", "/proc/1/timerslack_ns", "/proc/self/timerslack_ns"), "1000000\n50000")
	if size := number(t, g.Run("df", "/")); size < 270 {
		t.Errorf("the root file system has %d MiB of a disk of 300", size)
	}
	if said := g.Console(); strings.Contains(said, "envd:") {
		t.Errorf("envd complains: %s", said)
	}
}

// The host changes at run time what the kernel's arguments said at boot.
func TestGuestIsReconfigured(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{VCPUs: 2})
	tomorrow := time.Now().Add(24 * time.Hour).UTC()
	g.Init(fmt.Sprintf(`,"hostname":"sb-feedbeef","timestamp":%q,"network":{"address":"10.0.0.2/30","gateway":"10.0.0.1","dns":["192.0.2.7"]}`,
		tomorrow.Format(time.RFC3339Nano)))
	contains(t, g.Run("resolve", "sb-feedbeef"), "[127.0.1.1] [10.0.0.2/30]")
	g.Run("ping", "10.0.0.1")
	contains(t, g.Run("cat", "/etc/resolv.conf"), "nameserver 192.0.2.7")
	if now := time.UnixMilli(int64(number(t, g.Run("time")))); now.Before(tomorrow) || now.After(tomorrow.Add(vmtest.Patience)) {
		t.Errorf("the guest's clock says %s, want %s", now, tomorrow)
	}
}

// What is wrong with the arguments is said, and the guest is there nevertheless.
func TestGuestWithWrongArguments(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{Arguments: "wrenn.hostname=not_a_name wrenn.ip=10.0.0.2"})
	g.Init("")
	contains(t, g.Console(), "envd: read the kernel's arguments: kernel argument wrenn.ip=10.0.0.2:", `envd: apply the kernel's arguments: set the hostname: "not_a_name"`)
}

func TestGuestReapsOrphans(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{})
	g.Init("")
	for range 10 {
		g.Run("orphan")
	}
	g.Run("zombies")
}

// A host goes and comes back again and again; what runs goes on running, and a guest
// without a host costs nothing.
func TestGuestHostsComeAndGo(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{})
	g.Init("")
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := g.Watch(ctx, "user", []string{"stubborn"}, func([]byte) { close(started) })
		ended <- err
	}()
	<-started
	for i := range 20 {
		g.Disconnect()
		contains(t, g.Run("echo", "round", strconv.Itoa(i)), "round "+strconv.Itoa(i))
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the stream of a host that has gone ended in order")
	}
	contains(t, g.Post("/process.Process/List", "{}"), "stubborn")

	// To poll every 10 ms would be 500 switches, whatever else goes on. What is counted
	// besides, the two calls and now and then a garbage collection, is less than that at
	// least once.
	least := 1 << 30
	for range 3 {
		before := number(t, g.Run("switches"))
		g.Disconnect()
		time.Sleep(5 * time.Second) // nothing is waited for: this is how long the guest is observed
		least = min(least, number(t, g.Run("switches"))-before)
	}
	if least > 400 {
		t.Errorf("the threads of envd were switched %d times while no host was there", least)
	}
}

// A connection to a port goes over the channel to the host like every other, and the end of each direction with it.
func TestGuestPort(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{})
	g.Init("")
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := g.Watch(context.Background(), "user", []string{"reverse", "8080"}, func([]byte) { close(ready) })
		ended <- err
	}()
	<-ready
	conn := g.Port(8080)
	if _, err := io.WriteString(conn, "stressed"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "desserts" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A process that takes all memory is killed, which its end says, and envd is not.
func TestGuestOutOfMemory(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{MemoryMiB: 128})
	g.Init("")
	for range 2 {
		if out, exit, err := g.Start("root", "hog"); exit != -1 || err != nil {
			t.Errorf("exit code %d, %v\n%s", exit, err, out)
		}
		contains(t, g.Run("echo", "alive"), "alive")
	}
	if list := g.Post("/process.Process/List", "{}"); strings.Count(list, `"signal":9,"oomKilled":true`) != 2 {
		t.Errorf("not both were said to be killed for want of memory: %s", list)
	}
	// By its cgroup's limit or by envd, whoever is faster, but not because the guest as a whole was out of memory.
	if said := g.Console(); strings.Contains(said, "\nOut of memory") {
		t.Errorf("not the process's cgroup was out of memory: %s", said)
	}
}

// A process near the limit that evicts and reads back its own pages makes no headway, and the kernel sees no reason to kill it.
// envd does, and its end says why.
func TestGuestThrashing(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{MemoryMiB: 128})
	g.Init("")
	if out, exit, err := g.Start("root", "thrash"); exit != -1 || err != nil {
		t.Errorf("exit code %d, %v\n%s", exit, err, out)
	}
	contains(t, g.Run("echo", "alive"), "alive")
	contains(t, g.Post("/process.Process/List", "{}"), `"signal":9,"oomKilled":true`)
	contains(t, g.Console(), "envd: out of memory: killed process")
}

// A cache that is written and read a lot is pressure too, and no reason to kill.
func TestGuestFileCacheIsNoThrashing(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{MemoryMiB: 128, DiskMiB: 1 << 10})
	g.Init("")
	g.Run("cache")
	if said := g.Console(); strings.Contains(said, "out of memory") {
		t.Error(said)
	}
}

// Nor is it that a program whose memory takes nearly all is in the way of another that copies a large file.
func TestGuestCopyBesideFullMemoryIsNoThrashing(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{DiskMiB: 2 << 10})
	g.Init("")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	kept, ended := make(chan struct{}), make(chan string, 1)
	go func() {
		exit, err := g.Watch(ctx, "root", []string{"keep"}, func([]byte) { close(kept) })
		ended <- fmt.Sprintf("exit code %d, %v", exit, err)
	}()
	select {
	case <-kept:
		contains(t, g.Run("copy", "100"), strconv.Itoa(100<<20))
	case end := <-ended:
		t.Fatalf("it ended before: %s", end)
	}
	select {
	case end := <-ended:
		t.Errorf("the program with the memory has ended: %s", end)
	default:
	}
	if said := g.Console(); strings.Contains(said, "out of memory") {
		t.Error(said)
	}
}

// A fork bomb ends at a limit that leaves envd able to answer and to end the guest. The
// limit is lowered here: a guest can hold thousands, which takes a minute under emulation.
func TestGuestForkBomb(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{})
	g.Init("")
	limits := strings.Fields(g.Run("cat", "/proc/sys/kernel/threads-max", "/sys/fs/cgroup/user/pids.max"))
	if most := number(t, limits[0]); number(t, limits[1]) > most-100 {
		t.Errorf("all but %d tasks: %s", most, limits[1])
	}
	g.Run("write", "/sys/fs/cgroup/user/pids.max", "300")
	if n := number(t, g.Run("fork")); n < 200 || n > 300 {
		t.Errorf("%d processes", n)
	}
	g.Init("")
	g.Post("/shutdown", "")
	if err := g.WaitExit(); err != nil {
		t.Errorf("QEMU: %v", err)
	}
	contains(t, g.Console(), "envd: the guest ends: asked by the host")
}

// However the guest is ended, its disk is in order and holds what was written last.
func TestGuestShutdown(t *testing.T) {
	for name, end := range map[string]func(g *vmtest.Guest){
		"asked by the host": func(g *vmtest.Guest) { g.Post("/shutdown", "") },
		"SIGTERM":           func(g *vmtest.Guest) { _, _, _ = g.Start("root", "kill", "15") },
		"SIGINT":            func(g *vmtest.Guest) { _, _, _ = g.Start("root", "kill", "2") },
		"SIGPWR":            func(g *vmtest.Guest) { _, _, _ = g.Start("root", "kill", "30") },
		"stubborn process": func(g *vmtest.Guest) {
			started := make(chan struct{})
			go func() {
				_, _ = g.Watch(context.Background(), "user", []string{"stubborn"}, func([]byte) { close(started) })
			}()
			<-started
			g.Post("/shutdown", "")
		},
		"file that cannot be closed": func(g *vmtest.Guest) {
			g.Run("loop")
			g.Post("/shutdown", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := vmtest.Boot(t, vmtest.Options{})
			g.Init("")
			g.Run("write", "/root/unsynced", "last words")
			end(g)
			if err := g.WaitExit(); err != nil {
				t.Errorf("QEMU: %v", err)
			}
			contains(t, g.CheckDisk("/root/unsynced"), "last words")
			if said := g.Console(); strings.Count(said, "envd:") != 1 {
				t.Errorf("envd complains: %s", said)
			}
		})
	}
}

// The image has no room in its group descriptors: one block of them describes 8 GiB.
func TestGuestGrowsBeyondItsDescriptors(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{DiskMiB: 20 << 10})
	g.Init("")
	if size := number(t, g.Run("df", "/")); size < 18<<10 {
		t.Errorf("the root file system has %d MiB of a disk of 20 GiB", size)
	}
	g.Run("write", "/root/unsynced", "last words")
	g.Post("/shutdown", "")
	if err := g.WaitExit(); err != nil {
		t.Errorf("QEMU: %v", err)
	}
	contains(t, g.CheckDisk("/root/unsynced"), "last words")
}
