package files

import (
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// maxParts is how many files one multipart upload may hold.
const maxParts = 1000

// metadataPrefix begins the names of the request headers that give an uploaded file metadata.
const metadataPrefix = "X-Metadata-"

// entry describes an uploaded file in the answer. The protocol's clients refuse further fields.
type entry struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func newEntry(path string) entry {
	return entry{Path: path, Name: filepath.Base(path), Type: "file", Metadata: filesystem.ReadMetadata(path)}
}

// Upload serves POST /files.
func (h *Handler) Upload(w http.ResponseWriter, r *http.Request) {
	written, failure := h.upload(r)
	if failure != nil {
		failure.Write(w)
		return
	}
	answer(w, written)
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(value) // the caller is gone if this fails
}

func (h *Handler) upload(r *http.Request) ([]entry, *apierror.Error) {
	u, failure := h.lookup(r.URL.Query().Get("username"))
	if failure != nil {
		return nil, failure
	}
	given, failure := attributesOf(r)
	if failure != nil {
		return nil, failure
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return nil, apierror.New(http.StatusBadRequest, "the Content-Type header is missing or malformed")
	}
	body, failure := requestBody(r)
	if failure != nil {
		return nil, failure
	}
	switch kind {
	case "application/octet-stream":
		return h.uploadRaw(r, body, u, given)
	case "multipart/form-data":
		if params["boundary"] == "" {
			return nil, apierror.New(http.StatusBadRequest, "the multipart boundary is missing")
		}
		p := parts{handler: h, user: u, path: r.URL.Query().Get("path"), attributes: given}
		written, failure := p.upload(multipart.NewReader(body, params["boundary"]))
		if failure == nil {
			failure = drain(body)
		}
		return written, failure
	}
	return nil, apierror.New(http.StatusBadRequest,
		"content type %s is not supported, only multipart/form-data and application/octet-stream are", kind)
}

// attributesOf reads the metadata, and the mode in octal, which the protocol does not have: the query's mode.
func attributesOf(r *http.Request) (a attributes, failure *apierror.Error) {
	a.metadata = metadataOf(r.Header)
	if err := filesystem.CheckMetadata(a.metadata); err != nil {
		return a, apierror.New(http.StatusBadRequest, "invalid metadata: %v", err)
	}
	text := r.URL.Query().Get("mode")
	if text == "" {
		return a, nil
	}
	bits, err := filesystem.ParseMode(text)
	if err != nil {
		return a, apierror.New(http.StatusBadRequest, "%v", err)
	}
	mode := filesystem.FileMode(bits)
	a.mode = &mode
	return a, nil
}

// metadataOf returns what the headers say; of several with the same name the first counts.
func metadataOf(header http.Header) map[string]string {
	metadata := map[string]string{}
	for name, values := range header {
		if key, ours := strings.CutPrefix(name, metadataPrefix); ours && key != "" {
			metadata[strings.ToLower(key)] = values[0]
		}
	}
	return metadata
}

// uploadRaw stores the body at the path of the query.
func (h *Handler) uploadRaw(r *http.Request, body io.Reader, u *user.User, given attributes) ([]entry, *apierror.Error) {
	path, failure := absolute(r.URL.Query().Get("path"), u)
	if failure != nil {
		return nil, failure
	}
	if body == io.Reader(r.Body) {
		failure = checkSpace(path, r.ContentLength)
	}
	if failure == nil {
		failure = write(path, u, h.uploaded(body, given))
	}
	if failure != nil {
		return nil, failure
	}
	return []entry{newEntry(path)}, nil
}

// parts is an upload of several files.
type parts struct {
	handler *Handler
	user    *user.User
	path    string // of the one file, or empty
	written []entry
	attributes
}

// upload stores each part that is called "file": at the path of the query if there is one,
// which then fits one file only, else at the part's own file name.
func (p *parts) upload(reader *multipart.Reader) ([]entry, *apierror.Error) {
	for count := 0; ; count++ {
		part, err := reader.NextRawPart()
		switch {
		case err == io.EOF: // not errors.Is: a body without its last boundary gives a wrapped EOF
			return append([]entry{}, p.written...), nil
		case err != nil:
			return nil, apierror.New(http.StatusBadRequest, "malformed multipart body: %v", err)
		case count == maxParts:
			return nil, apierror.New(http.StatusBadRequest, "more than %d parts in one upload", maxParts)
		case part.FormName() != "file":
			continue
		}
		if failure := p.store(part); failure != nil {
			return nil, failure
		}
	}
}

func (p *parts) store(part *multipart.Part) *apierror.Error {
	path, failure := p.pathOf(part)
	if failure != nil {
		return failure
	}
	if failure := write(path, p.user, p.handler.uploaded(part, p.attributes)); failure != nil {
		return failure
	}
	p.written = append(p.written, newEntry(path))
	return nil
}

func (p *parts) pathOf(part *multipart.Part) (string, *apierror.Error) {
	if p.path != "" {
		if len(p.written) > 0 {
			return "", apierror.New(http.StatusBadRequest, "several files for the one path '%s'; the first was stored", p.path)
		}
		return absolute(p.path, p.user)
	}
	// Part.FileName would keep the last element only.
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return "", apierror.New(http.StatusBadRequest, "malformed Content-Disposition of a part")
	}
	return absolute(params["filename"], p.user)
}

// checkSpace refuses early what cannot fit, before it fills the disk for everybody else.
func checkSpace(path string, size int64) *apierror.Error {
	if size <= 0 {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil {
			if free := fs.Bfree * uint64(fs.Bsize); fs.Blocks > 0 && uint64(size) > free {
				return apierror.New(http.StatusInsufficientStorage,
					"not enough disk space available: %d bytes are to be written and %d are free", size, free)
			}
			return nil
		}
		if dir == "/" {
			return nil
		}
	}
}
