package files

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
)

// Download serves GET and HEAD /files, with ranges and conditions where the file has a size.
func (h *Handler) Download(w http.ResponseWriter, r *http.Request) {
	u, failure := h.user(r)
	if failure != nil {
		failure.Write(w)
		return
	}
	path, failure := absolute(r.URL.Query().Get("path"), u.Home)
	if failure != nil {
		failure.Write(w)
		return
	}
	file, info, failure := open(path)
	if failure != nil {
		failure.Write(w)
		return
	}
	defer func() { _ = file.Close() }()
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Cache-Control", "no-store")
	name := map[string]string{"filename": filepath.Base(path)}
	if disposition := mime.FormatMediaType("inline", name); disposition != "" {
		header.Set("Content-Disposition", disposition)
	}
	serve(w, r, file, info)
}

// serve sends a file. A small one is read first, because files of /proc and /sys say that they
// have 0 or 4096 bytes whatever they have.
func serve(w http.ResponseWriter, r *http.Request, file *os.File, info os.FileInfo) {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	if info.Size() >= int64(len(buf)) {
		http.ServeContent(w, r, "", info.ModTime(), file)
		return
	}
	n, err := readFull(file, buf[:])
	switch {
	case err != nil:
		pathError(file.Name(), err).Write(w)
	case n < len(buf):
		http.ServeContent(w, r, "", info.ModTime(), bytes.NewReader(buf[:n]))
	default:
		stream(w, r, file, buf)
	}
}

// open opens a regular file. It never waits: other kinds are refused before they are opened, since
// opening a device may do something, and a FIFO put there meanwhile does not block with O_NONBLOCK.
func open(path string) (*os.File, os.FileInfo, *apierror.Error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, pathError(path, err)
	}
	if failure := checkRegular(path, info); failure != nil {
		return nil, nil, failure
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, pathError(path, err)
	}
	info, err = file.Stat()
	failure := checkRegular(path, info)
	if err != nil {
		failure = pathError(path, err)
	}
	if failure != nil {
		_ = file.Close()
		return nil, nil, failure
	}
	return file, info, nil
}

func checkRegular(path string, info os.FileInfo) *apierror.Error {
	switch {
	case info == nil:
		return nil
	case info.IsDir():
		return directoryError(path)
	case !info.Mode().IsRegular():
		return irregularError(path)
	}
	return nil
}

// stream sends a file whose size nobody knows before it is read, and of which buf holds the beginning.
func stream(w http.ResponseWriter, r *http.Request, file *os.File, buf *[64 << 10]byte) {
	for n := len(buf); n > 0 && r.Context().Err() == nil; {
		if _, err := w.Write(buf[:n]); err != nil {
			return
		}
		var err error
		if n, err = readFull(file, buf[:]); err != nil {
			panic(http.ErrAbortHandler) // breaks the connection, so that the caller does not take it for the whole file
		}
	}
}

// readFull fills buf as far as the file goes: to its end, or to where a read would have to wait,
// as on /proc/kmsg.
func readFull(file *os.File, buf []byte) (int, error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	filled := 0
	for filled < len(buf) {
		n, err := readNow(conn, buf[filled:])
		if err != nil || n == 0 {
			return filled, err
		}
		filled += n
	}
	return filled, nil
}

// readNow reads what is there; 0 means that there is nothing, yet or ever.
func readNow(conn syscall.RawConn, buf []byte) (n int, err error) {
	controlErr := conn.Control(func(fd uintptr) {
		for {
			if n, err = unix.Read(int(fd), buf); err != unix.EINTR {
				return
			}
		}
	})
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return n, controlErr
}
