package filesystem

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
)

// The requests of FUSE that the root directory of a mount gets here (linux/fuse.h).
const (
	fuseGetattr = 3
	fuseStatfs  = 17
	fuseInit    = 26
)

// serveFUSE mounts a file system of one empty directory.
func serveFUSE(t *testing.T, dir string) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		testlane.Missing(t, "no /dev/fuse: "+err.Error())
	}
	if err := unix.Mount("fuse", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		testlane.Missing(t, "no FUSE: "+err.Error())
	}
	served := make(chan bool)
	go func() {
		defer close(served)
		buf := make([]byte, 1<<16)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n < 40 { // ENODEV: it is unmounted
				return
			}
			_, _ = unix.Write(fd, fuseAnswer(buf[:n]))
		}
	}()
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		<-served
		_ = unix.Close(fd)
	})
}

// fuseAnswer answers a request: a header of length, error and the request's number, and what is asked for.
func fuseAnswer(request []byte) []byte {
	errno, body := int32(0), []byte(nil)
	switch binary.NativeEndian.Uint32(request[4:]) {
	case fuseInit:
		body = make([]byte, 64)
		binary.NativeEndian.PutUint32(body, 7)
		binary.NativeEndian.PutUint32(body[4:], 31)
	case fuseGetattr:
		body = make([]byte, 104)
		binary.NativeEndian.PutUint64(body[16:], 1)                  // the inode
		binary.NativeEndian.PutUint32(body[76:], unix.S_IFDIR|0o755) // the mode
	case fuseStatfs:
		body = make([]byte, 80)
	default:
		errno = -int32(unix.ENOSYS)
	}
	answer := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	answer = binary.NativeEndian.AppendUint32(answer, uint32(errno))
	answer = append(answer, request[8:16]...)
	return append(answer, body...)
}

func TestNetworkMount(t *testing.T) {
	f := newFixture(t)
	f.mkdir("remote")
	serveFUSE(t, f.at("remote"))
	if info, err := os.Stat(f.at("remote")); err != nil || !info.IsDir() {
		t.Fatalf("%v, %v", info, err)
	}
	_, err := f.Watch(f.at("remote"), WatchOptions{})
	f.fails(err, Invalid, "cannot watch path on network filesystem: "+f.at("remote"))
	w := f.watch("remote", WatchOptions{AllowNetworkMounts: true})
	f.saw(w)
}
