package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// copyBuffer is what a download holds in memory besides the buffer of its connection.
const copyBuffer = 64 << 10

// fileName names a file in a guest.
type fileName struct {
	sandbox    id.Sandbox
	path, user string // the user may be empty
}

// fileRef returns the file that a request means: by ?path=, or by the rest of the URL's path.
func fileRef(r *http.Request) (fileName, error) {
	sb, err := sandboxID(r)
	if err != nil {
		return fileName{}, err
	}
	inURL := strings.HasSuffix(chi.RouteContext(r.Context()).RoutePattern(), "/*")
	known := []string{"user"}
	if !inURL {
		known = append(known, "path")
	}
	q, err := query(r, known)
	if err != nil {
		return fileName{}, err
	}
	f := fileName{sandbox: sb, path: q.Get("path"), user: q.Get("user")}
	if inURL {
		if f.path, err = pathInURL(r); err != nil {
			return f, err
		}
	}
	if err := checkPath(f.path); err != nil {
		return f, err
	}
	return f, checkText("user", f.user, 0)
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
	ref, err := fileRef(r)
	if err != nil {
		return err
	}
	guest, err := s.Controller.Guest(r.Context(), by(r).Account, ref.sandbox)
	if err != nil {
		return err
	}
	f, err := guest.ReadFile(r.Context(), ref.path, ref.user)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if f.Size >= 0 { // the files of /proc tell none
		w.Header().Set("Content-Length", strconv.FormatInt(f.Size, 10))
	}
	if err := s.send(w, f); err != nil {
		aboutOf(r.Context()).cause = err
		panic(http.ErrAbortHandler) // the client must not take what it has for the whole
	}
	return nil
}

// send copies f to w, with a deadline for each piece.
func (s *Server) send(w http.ResponseWriter, f io.Reader) error {
	rc := http.NewResponseController(w)
	buf := make([]byte, copyBuffer)
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

// writtenFile is the schema WrittenFile.
type writtenFile struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

func (s *Server) writeFile(w http.ResponseWriter, r *http.Request) error {
	ref, err := fileRef(r)
	if err != nil {
		return err
	}
	if err := fileContent(r); err != nil {
		return err
	}
	if r.ContentLength > s.Limits.Upload { // before the guest hears of it
		return bodyError(&http.MaxBytesError{Limit: s.Limits.Upload})
	}
	guest, err := s.Controller.Guest(r.Context(), by(r).Account, ref.sandbox)
	if err != nil {
		return err
	}
	content := &patient{
		r: http.MaxBytesReader(w, r.Body, s.Limits.Upload), rc: http.NewResponseController(w), idle: s.Limits.Idle,
	}
	info, err := guest.WriteFile(r.Context(), ref.path, ref.user, content)
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

// fileContent refuses a form: the file would begin with the form's boundary.
func fileContent(r *http.Request) error {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // any other, or none, will do
	if kind != "multipart/form-data" {
		return nil
	}
	return withStatus(http.StatusUnsupportedMediaType, models.Errorf(models.Invalid, "the body must be the file itself, not a form").
		WithHint("send Content-Type: application/octet-stream; with curl: -T file"))
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
