// The probe looks at a guest from inside, for the tests of envd. Its first argument says
// at what; it fails where it sees what must not be.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var probes = map[string]func(args []string) error{
	"cache":    cache,
	"cat":      cat,
	"copy":     copyFile,
	"df":       df,
	"echo":     echo,
	"fork":     fork,
	"hog":      hog,
	"keep":     keep,
	"mounts":   mounts,
	"kill":     kill,
	"loop":     loop,
	"orphan":   orphan,
	"ping":     ping,
	"resolve":  resolve,
	"reverse":  reverse,
	"stat":     stat,
	"stubborn": stubborn,
	"switches": switches,
	"system":   system,
	"terminal": terminal,
	"thrash":   thrash,
	"time":     printTime,
	"write":    write,
	"zombies":  zombies,
}

func main() {
	if err := probes[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// cat prints files, one after the other, each without its last newline.
func cat(paths []string) error {
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Println(strings.TrimSuffix(string(b), "\n"))
	}
	return nil
}

func echo(args []string) error {
	fmt.Println(strings.Join(args, " "))
	return nil
}

// df prints the size of a file system in MiB.
func df(args []string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(args[0], &s); err != nil {
		return err
	}
	fmt.Println(int64(s.Blocks) * s.Bsize >> 20)
	return nil
}

// mounts prints target, type and options of each mount, sorted by the kernel.
func mounts([]string) error { return cat([]string{"/proc/self/mounts"}) }

// stat prints mode, device number and link target of each path.
func stat(paths []string) error {
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		target, _ := os.Readlink(path)
		fmt.Println(path, info.Mode(), target)
	}
	return nil
}

// system prints what envd sets and no file shows.
func system([]string) error {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Println(name, files.Cur, files.Max, os.Getppid())
	return nil
}

func printTime([]string) error {
	fmt.Println(time.Now().UnixMilli())
	return nil
}

// terminal opens a pseudo-terminal, which needs /dev/ptmx and /dev/pts.
func terminal([]string) error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	return slave.Close()
}

// orphan leaves a process behind that soon ends, as child of PID 1 then.
func orphan(args []string) error {
	if len(args) > 0 {
		time.Sleep(50 * time.Millisecond)
		return nil
	}
	cmd := exec.Command("/proc/self/exe", "orphan", "child")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// zombies fails if there are any that stay.
func zombies([]string) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		found, err := findZombies()
		if err != nil || found == "" {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New(found)
		}
	}
}

func findZombies() (string, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	var found string
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), ") Z ") {
			found += string(b)
		}
	}
	return found, err
}

// fork starts processes, which stay, until no more can be started, and prints how many.
// They are made of the system calls alone: a whole Go program each would need too much
// memory to get anywhere near the limit.
func fork([]string) error {
	for n := 0; ; n++ {
		pid, _, errno := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
		if errno != 0 {
			fmt.Println(n)
			return nil //nolint:nilerr // that it fails at last is what is wanted
		}
		for pid == 0 {
			_, _, _ = unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
		}
	}
}

// kill sends a signal to PID 1.
func kill(args []string) error {
	number, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return unix.Kill(1, unix.Signal(number))
}

// loop attaches a file to a loop device, which keeps it open for writing with no process
// that could be killed.
func loop([]string) error {
	control, err := os.Open("/dev/loop-control")
	if err != nil {
		return err
	}
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return err
	}
	device, err := os.OpenFile("/dev/loop"+strconv.Itoa(number), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	file, err := os.OpenFile("/root/loop", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := file.Truncate(1 << 20); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(file.Fd()))
}

// switches prints how often the threads of PID 1 have gone to sleep or been interrupted.
func switches([]string) error {
	paths, err := filepath.Glob("/proc/1/task/*/status")
	if err != nil {
		return err
	}
	sum := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.HasSuffix(name, "ctxt_switches") {
				n, err := strconv.Atoi(strings.TrimSpace(value))
				if err != nil {
					return err
				}
				sum += n
			}
		}
	}
	fmt.Println(sum)
	return nil
}

// stubborn ignores what asks it to end.
func stubborn([]string) error {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	fmt.Println("ready")
	time.Sleep(time.Hour)
	return nil
}

// write writes a file and does not wait for the disk.
func write(args []string) error { return os.WriteFile(args[0], []byte(args[1]), 0o644) }
