package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// copyBuffer is what a download holds in memory besides the message that the host sent.
const copyBuffer = 64 << 10

// fileRef returns the file that a request means: by ?path=, or by the rest of the URL's path.
func fileRef(r *http.Request) (hostclient.FileRef, error) {
	sb, err := sandboxID(r)
	if err != nil {
		return hostclient.FileRef{}, err
	}
	inURL := strings.HasSuffix(chi.RouteContext(r.Context()).RoutePattern(), "/*")
	known := []string{"user"}
	if !inURL {
		known = append(known, "path")
	}
	q, err := query(r, known)
	if err != nil {
		return hostclient.FileRef{}, err
	}
	f := hostclient.FileRef{Sandbox: sb, Path: q.Get("path"), User: q.Get("user")}
	if inURL {
		if f.Path, err = pathInURL(r); err != nil {
			return f, err
		}
	}
	if err := checkPath(f.Path); err != nil {
		return f, err
	}
	return f, checkText("user", f.User, 0)
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
	client, err := s.Controller.Running(r.Context(), by(r).Account, ref.Sandbox)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	f, err := client.ReadFile(ctx, ref)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if f.Size > 0 { // 0 may also be a file that tells no size, as those in /proc
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
		if errors.Is(err, io.EOF) {
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
	client, err := s.Controller.Running(r.Context(), by(r).Account, ref.Sandbox)
	if err != nil {
		return err
	}
	content := &patient{
		r: http.MaxBytesReader(w, r.Body, s.Limits.Upload), rc: http.NewResponseController(w), idle: s.Limits.Idle,
	}
	info, err := client.WriteFile(r.Context(), ref, content)
	var source *hostclient.SourceError
	if errors.As(err, &source) {
		return bodyError(source.Err)
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
	return p.r.Read(b)
}
