package files

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/direct"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// Download serves GET and HEAD /files: compressed where the caller likes that, otherwise with ranges
// and conditions where the file has a size.
func (h *Handler) Download(w http.ResponseWriter, r *http.Request) {
	if failure := h.download(w, r); failure != nil {
		failure.Write(w)
	}
}

func (h *Handler) download(w http.ResponseWriter, r *http.Request) *apierror.Error {
	_, path, failure := h.target(r)
	if failure != nil {
		return failure
	}
	file, info, failure := open(path)
	if failure != nil {
		return failure
	}
	defer func() { _ = file.Close() }()
	coding, failure := responseCoding(w, r)
	if failure != nil {
		return failure
	}
	describe(w.Header(), filepath.Base(path))
	if coding == codingGzip {
		w.Header().Set("Content-Encoding", codingGzip)
		return serveCompressed(w, r, file, info.Size())
	}
	return h.serve(w, r, file, info)
}

// describe sets the headers of a download.
func describe(header http.Header, name string) {
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Cache-Control", "no-store")
	if disposition := mime.FormatMediaType("inline", map[string]string{"filename": name}); disposition != "" {
		header.Set("Content-Disposition", disposition)
	}
}

// serve sends a file. A small one is read first, because files of /proc and /sys say that they
// have 0 or 4096 bytes whatever they have.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, file *os.File, info os.FileInfo) *apierror.Error {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	if info.Size() >= int64(len(buf)) {
		if h.direct {
			w = bulk{w}
		}
		http.ServeContent(w, r, info.ModTime(), file)
		return nil
	}
	n, err := readFull(file, buf[:])
	switch {
	case err != nil:
		return pathError(file.Name(), err)
	case n < len(buf):
		http.ServeContent(w, r, info.ModTime(), bytes.NewReader(buf[:n]))
		return nil
	}
	abortOn(stream(r.Context(), w, file, buf[:], n))
	return nil
}

// bulk answers with large parts of files past the page cache.
type bulk struct{ http.ResponseWriter }

// ReadFrom is what http.ServeContent sends a part of a file by.
func (b bulk) ReadFrom(r io.Reader) (int64, error) {
	if part, ok := r.(*io.LimitedReader); ok && part.N >= direct.Worth {
		if file, ok := part.R.(*os.File); ok {
			return direct.Send(b.ResponseWriter, file, part.N)
		}
	}
	return io.Copy(b.ResponseWriter, r)
}

// serveCompressed sends a file through gzip. That it gets shorter than size meanwhile is an error,
// unless it is so small that its size may be made up.
func serveCompressed(w http.ResponseWriter, r *http.Request, file *os.File, size int64) *apierror.Error {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	n, err := readFull(file, buf[:])
	if err != nil {
		w.Header().Del("Content-Encoding")
		return pathError(file.Name(), err)
	}
	if r.Method == http.MethodHead {
		return nil
	}
	abortOn(compressed(w, func(to io.Writer) error {
		if err := stream(r.Context(), to, file, buf[:], n); err != nil {
			return err
		}
		sent, err := file.Seek(0, io.SeekCurrent)
		if err == nil && size >= int64(len(buf)) && sent < size {
			err = io.ErrUnexpectedEOF
		}
		return err
	}))
	return nil
}

// abortOn breaks the connection after an error, so that the caller does not take what it has for
// the whole.
func abortOn(err error) {
	if err != nil {
		panic(http.ErrAbortHandler)
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

// stream sends a file of whose size nothing is known, and of which the first n bytes are in buf.
func stream(ctx context.Context, w io.Writer, file *os.File, buf []byte, n int) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		var err error
		if n, err = readFull(file, buf); err != nil {
			return err
		}
	}
	return nil
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
