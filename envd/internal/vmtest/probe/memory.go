package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// hog takes memory until it is killed.
func hog([]string) error {
	var all [][]byte
	for {
		all = append(all, touched(mib)) //nolint:staticcheck // kept, so that it is not freed
	}
}

// touched returns memory that is really there.
func touched(size int) []byte {
	b := make([]byte, size)
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	return b
}

// thrash takes all but a few MiB of the limit, and then for ever reads a mapped file that does not fit into the rest.
func thrash([]string) error {
	const spare, file = 4 * mib, 16 * mib
	limit, current, err := allowance()
	if err != nil {
		return err
	}
	f, err := filled("/root/mapped", file/mib)
	if err != nil {
		return err
	}
	kept := touched(limit - current - spare)
	mapped, err := unix.Mmap(int(f.Fd()), 0, file, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for sum := 0; sum >= 0; sum %= 1 << 20 { // a sum that nothing depends on would not be made
		for i := 0; i < len(mapped); i += os.Getpagesize() {
			sum += int(mapped[i])
		}
		sum += int(kept[0])
	}
	return nil
}

// filled makes a file of so many MiB, all of which is on the disk.
func filled(path string, size int) (*os.File, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	piece := bytes.Repeat([]byte{1}, mib)
	for range size {
		if _, err := f.Write(piece); err != nil {
			return nil, err
		}
	}
	return f, f.Sync()
}

// allowance returns how much memory the programs may take, and how much they have.
func allowance() (limit, current int, err error) {
	if limit, err = knob("memory.max"); err != nil {
		return 0, 0, err
	}
	current, err = knob("memory.current")
	return limit, current, err
}

// knob reads a number of the cgroup of all that envd starts.
func knob(name string) (int, error) {
	text, err := os.ReadFile("/sys/fs/cgroup/user/" + name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(bytes.TrimSpace(text)))
}

// cache writes and reads a file of some times the guest's memory.
func cache([]string) error {
	f, err := filled("/root/cached", 300)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, f)
	fmt.Println(n)
	return err
}

// keep takes 92 % of what the programs may take, says so and keeps it, and looks at all of it again and again.
func keep([]string) error {
	limit, current, err := allowance()
	if err != nil {
		return err
	}
	kept := touched(limit*92/100 - current)
	fmt.Println("kept")
	for ; ; time.Sleep(time.Second) {
		for i := 0; i < len(kept); i += os.Getpagesize() {
			kept[i]++
		}
	}
}

// copyFile copies a file of so many MiB through the cache of files.
func copyFile(args []string) error {
	size, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	from, err := filled("/root/from", size)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	to, err := os.Create("/root/to")
	if err != nil {
		return err
	}
	n, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}) // not by the kernel alone
	fmt.Println(n)
	return errors.Join(err, to.Close())
}
