package api

import (
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
)

// copyBuffer is what a stream of unknown length holds in memory besides the buffer of its connection. A download of a file holds
// as much as the file has, and at most bulkBuffer: what a tunnel carries at once then takes one read and one write.
const copyBuffer, bulkBuffer = 64 << 10, tunnel.MaxData

const tarArchive = "application/x-tar"

// fileName names a file in a guest.
type fileName struct {
	sandbox    id.Sandbox
	path, user string  // the user may be empty
	depth      int     // of a listing
	info       bool    // whether only the entry is asked for
	mode       *uint32 // of a file that is written; nil where the request has none
}

// fileRef returns the file that a request means: by ?path=, or by the rest of the URL's path. Further query parameters are
// those in known.
func fileRef(r *http.Request, known ...string) (fileName, error) {
	sb, err := sandboxID(r)
	if err != nil {
		return fileName{}, err
	}
	inURL := strings.HasSuffix(chi.RouteContext(r.Context()).RoutePattern(), "/*")
	known = append(known, "user")
	if !inURL {
		known = append(known, "path")
	}
	q, err := query(r, known)
	if err != nil {
		return fileName{}, err
	}
	f := fileName{sandbox: sb, path: q.Get("path"), user: q.Get("user"), depth: 1}
	if inURL {
		if f.path, err = pathInURL(r); err != nil {
			return f, err
		}
	}
	if err := checkFile(f.user, f.path); err != nil {
		return f, err
	}
	return f, f.readOptions(q)
}

func (f *fileName) readOptions(q url.Values) (err error) {
	if f.info, err = boolean(q, "info"); err != nil {
		return err
	}
	if q.Has("mode") {
		mode, err := parseMode(q.Get("mode"))
		if err != nil {
			return err
		}
		f.mode = &mode
	}
	if text := q.Get("depth"); q.Has("depth") {
		if f.depth, err = strconv.Atoi(text); err != nil || f.depth < 1 || f.depth > maxDepth {
			return models.Errorf(models.Invalid, "depth must be a number from 1 to %d", maxDepth)
		}
	}
	return nil
}

// pathInURL is what follows …/files/, as an absolute path.
func pathInURL(r *http.Request) (string, error) {
	p := chi.URLParam(r, "*")
	if r.URL.RawPath != "" { // then chi has matched the escaped form
		var err error
		if p, err = url.PathUnescape(p); err != nil {
			return "", models.Errorf(models.Invalid, "the path is malformed")
		}
	}
	return "/" + strings.TrimLeft(p, "/"), nil
}

func (s *Server) readFile(w http.ResponseWriter, r *http.Request) error {
	ref, err := fileRef(r, "info", "depth")
	if err != nil {
		return err
	}
	guest, err := s.guest(r, ref.sandbox)
	if err != nil {
		return err
	}
	if ref.info {
		e, err := guest.Stat(r.Context(), ref.path, ref.user)
		if err != nil {
			return err
		}
		s.writeJSON(w, http.StatusOK, viewOfEntry(e))
		return nil
	}
	f, err := guest.ReadFileIf(r.Context(), ref.path, ref.user, r.Header)
	if models.CodeOf(err) == models.Invalid {
		if dir, statErr := guest.Stat(r.Context(), ref.path, ref.user); statErr == nil && dir.Type == envdclient.TypeDirectory {
			return s.readDirectory(w, r, guest, dir, ref)
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return s.sendFile(w, r, f, "application/octet-stream")
}

func (s *Server) readDirectory(w http.ResponseWriter, r *http.Request, guest *envdclient.Client, dir envdclient.Entry, ref fileName) error {
	if !accepts(r, tarArchive) {
		return s.answerListing(w, r, guest, dir, ref)
	}
	f, err := guest.Archive(r.Context(), ref.path, ref.user)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.sendFile(w, r, f, tarArchive)
}

// sendFile answers with what the guest gives of a file.
func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, f *envdclient.File, kind string) error {
	h := w.Header()
	for name, values := range f.Header {
		h[name] = values
	}
	switch f.Status {
	case http.StatusRequestedRangeNotSatisfiable:
		return withStatus(f.Status, models.Errorf(models.Invalid, "the file has no such part").WithHint("it has %s", h.Get("Content-Range")))
	case http.StatusPreconditionFailed:
		return withStatus(f.Status, models.Errorf(models.Precondition, "the file is not as the request's conditions want it"))
	case http.StatusNotModified:
		w.WriteHeader(f.Status)
		return nil
	}
	h.Set("Content-Type", kind)
	if f.Size >= 0 { // archives and the files of /proc tell none
		h.Set("Content-Length", strconv.FormatInt(f.Size, 10))
	}
	w.WriteHeader(f.Status)
	if err := s.send(w, f, f.Size); err != nil {
		aboutOf(r.Context()).cause = err
		panic(http.ErrAbortHandler) // the client must not take what it has for the whole
	}
	return nil
}

// send copies f, of which size bytes are to come if that is not negative, to w, with a deadline for each piece.
func (s *Server) send(w http.ResponseWriter, f io.Reader, size int64) error {
	rc := http.NewResponseController(w)
	buf := make([]byte, bufferFor(size))
	for {
		n, err := f.Read(buf)
		if n > 0 {
			_ = rc.SetWriteDeadline(time.Now().Add(s.Limits.Idle)) // unsupported only in unit tests
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF { // a file cut short may have io.EOF as its cause, and must not pass for whole
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// bufferFor returns the length of a buffer for so many bytes, where one more finds the end. What is negative is not known.
func bufferFor(size int64) int64 {
	if size < 0 {
		return copyBuffer
	}
	return min(size, bulkBuffer-1) + 1
}

// writtenFile is the schema WrittenFile.
type writtenFile struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

func (s *Server) writeFile(w http.ResponseWriter, r *http.Request) error {
	ref, err := fileRef(r, "mode")
	if err != nil {
		return err
	}
	archive, err := fileContent(r)
	if err != nil {
		return err
	}
	switch {
	case archive && ref.mode != nil:
		return models.Errorf(models.Invalid, "the files of an archive have modes of their own")
	case !archive:
		if err := checkContentPath(ref.path); err != nil {
			return err
		}
	}
	if r.ContentLength > s.Limits.Upload { // before the guest hears of it
		return bodyError(&http.MaxBytesError{Limit: s.Limits.Upload})
	}
	guest, err := s.guest(r, ref.sandbox)
	if err != nil {
		return err
	}
	content := &patient{
		r: http.MaxBytesReader(w, r.Body, s.Limits.Upload), rc: http.NewResponseController(w), idle: s.Limits.Idle,
	}
	var info envdclient.FileInfo
	if archive {
		info, err = s.unpack(r, guest, ref, content)
	} else {
		info, err = guest.WriteFileMode(r.Context(), ref.path, ref.user, ref.mode, content, r.ContentLength)
	}
	var source *sourceError
	if errors.As(err, &source) {
		return bodyError(source.error)
	}
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, writtenFile{Path: info.Path, Size: info.Size})
	return nil
}

// unpack stores what is in an archive below a directory, and counts the archive's bytes.
func (s *Server) unpack(r *http.Request, guest *envdclient.Client, ref fileName, content io.Reader) (envdclient.FileInfo, error) {
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(content)
		if err != nil {
			return envdclient.FileInfo{}, models.Errorf(models.Invalid, "the body is no gzip stream").WithCause(err)
		}
		content = unzipped
	}
	counted := &counter{r: content}
	if err := guest.Unpack(r.Context(), ref.path, ref.user, counted); err != nil {
		return envdclient.FileInfo{}, err
	}
	return envdclient.FileInfo{Path: ref.path, Size: counted.n}, nil
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// fileContent refuses a form, as the file would begin with the form's boundary, and tells an archive.
func fileContent(r *http.Request) (archive bool, err error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // any other, or none, will do
	encoding := r.Header.Get("Content-Encoding")
	switch {
	case kind == "multipart/form-data":
		return false, withStatus(http.StatusUnsupportedMediaType, models.Errorf(models.Invalid, "the body must be the file itself, not a form").
			WithHint("send Content-Type: application/octet-stream; with curl: -T file"))
	case encoding != "" && (encoding != "gzip" || kind != tarArchive):
		return false, withStatus(http.StatusUnsupportedMediaType, models.Errorf(models.Invalid, "the content encoding %q is not possible here", encoding))
	}
	return kind == tarArchive, nil
}

// patient gives every read a deadline of its own: a large upload may take long, as long as
// it goes on.
type patient struct {
	r    io.Reader
	rc   *http.ResponseController
	idle time.Duration
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(p.idle)) // unsupported only in unit tests
	n, err := p.r.Read(b)
	if err != nil && err != io.EOF { // io.EOF alone is the end of a body
		err = &sourceError{err}
	}
	return n, err
}

// sourceError is a failure of the client's to send its file: the guest is not at fault.
type sourceError struct{ error }
