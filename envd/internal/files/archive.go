package files

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/archive"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// HeaderSkipped is a trailer of GET /archive: how many devices and sockets it does not contain.
const HeaderSkipped = "Wrenn-Skipped"

// Pack serves GET /archive: the content of a directory as a tar stream, compressed where the caller
// likes that. What fails before the first byte is an error as ever; later, it breaks the connection.
func (h *Handler) Pack(w http.ResponseWriter, r *http.Request) {
	_, path, failure := h.target(r)
	if failure == nil {
		failure = checkDirectory(path)
	}
	coding := ""
	if failure == nil {
		coding, failure = responseCoding(w, r)
	}
	if failure != nil {
		failure.Write(w)
		return
	}
	describe(w.Header(), filepath.Base(path)+".tar")
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", HeaderSkipped)
	if r.Method == http.MethodHead {
		return
	}
	pack(w, r, path, coding)
}

func pack(w http.ResponseWriter, r *http.Request, path, coding string) {
	out := &countingWriter{ResponseWriter: w}
	send := func(to io.Writer) error {
		skipped, err := archive.Pack(r.Context(), to, path)
		w.Header().Set(HeaderSkipped, strconv.Itoa(skipped))
		return err
	}
	var err error
	if coding == codingGzip {
		w.Header().Set("Content-Encoding", codingGzip)
		err = compressed(out, send)
	} else {
		err = send(out)
	}
	if err != nil && out.count == 0 {
		w.Header().Del("Content-Encoding")
		w.Header().Del("Trailer")
		archiveError(err, 0).Write(w)
		return
	}
	abortOn(err)
}

// countingWriter knows whether an answer has begun.
type countingWriter struct {
	http.ResponseWriter
	count int64
}

func (w *countingWriter) Write(data []byte) (int, error) {
	n, err := w.ResponseWriter.Write(data)
	w.count += int64(n)
	return n, err
}

func checkDirectory(path string) *apierror.Error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return pathError(path, err)
	case !info.IsDir():
		return apierror.New(http.StatusBadRequest, "path '%s' is not a directory", path)
	}
	return nil
}

// Unpack serves POST /archive: a tar stream, maybe compressed, is unpacked below a directory, which is
// made if it is missing.
func (h *Handler) Unpack(w http.ResponseWriter, r *http.Request) {
	if failure := h.unpack(r); failure != nil {
		failure.Write(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *Handler) unpack(r *http.Request) *apierror.Error {
	u, path, failure := h.target(r)
	if failure != nil {
		return failure
	}
	body, failure := requestBody(r)
	if failure != nil {
		return failure
	}
	if err := filesystem.MakeFolders(path, u); err != nil {
		return pathError(path, err)
	}
	count, err := archive.Unpack(r.Context(), body, path, u)
	if err != nil {
		return archiveError(err, count)
	}
	return drain(body)
}

// archiveError names the entry that failed, and says how much was done before.
func archiveError(err error, before int) *apierror.Error {
	var at *archive.Error
	if !errors.As(err, &at) {
		status := http.StatusInternalServerError
		if errors.Is(err, archive.ErrStream) || errors.Is(err, context.Canceled) {
			status = http.StatusBadRequest
		}
		return apierror.New(status, "%v; %d entries came before", err, before)
	}
	failure := apierror.New(http.StatusBadRequest, "%v", at)
	if !errors.Is(err, archive.ErrRefused) {
		failure = pathError(at.Entry, at.Err)
		failure.Message = "entry '" + at.Entry + "': " + failure.Message
	}
	failure.Message += "; " + strconv.Itoa(before) + " entries came before"
	return failure
}
