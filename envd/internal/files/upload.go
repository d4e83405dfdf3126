package files

import (
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// maxParts is how many files one multipart upload may hold.
const maxParts = 1000

// entry describes an uploaded file in the answer. The protocol's clients refuse further fields.
type entry struct {
	Path string `json:"path"`
	Name string `json:"name"`
	Type string `json:"type"`
}

func newEntry(path string) entry { return entry{Path: path, Name: filepath.Base(path), Type: "file"} }

// Upload serves POST /files.
func (h *Handler) Upload(w http.ResponseWriter, r *http.Request) {
	written, failure := h.upload(r)
	if failure != nil {
		failure.Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(written) // the caller is gone if this fails
}

func (h *Handler) upload(r *http.Request) ([]entry, *apierror.Error) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, apierror.New(http.StatusUnsupportedMediaType, "content encoding %q is not supported", encoding)
	}
	u, failure := h.user(r)
	if failure != nil {
		return nil, failure
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return nil, apierror.New(http.StatusBadRequest, "the Content-Type header is missing or malformed")
	}
	switch kind {
	case "application/octet-stream":
		return h.uploadRaw(r, u)
	case "multipart/form-data":
		return h.uploadParts(r, params["boundary"], u)
	}
	return nil, apierror.New(http.StatusBadRequest,
		"content type %s is not supported, only multipart/form-data and application/octet-stream are", kind)
}

// uploadRaw stores the body at the path of the query.
func (h *Handler) uploadRaw(r *http.Request, u *user.User) ([]entry, *apierror.Error) {
	path, failure := absolute(r.URL.Query().Get("path"), u.Home)
	if failure != nil {
		return nil, failure
	}
	if failure := checkSpace(path, r.ContentLength); failure != nil {
		return nil, failure
	}
	if failure := write(path, u, r.Body); failure != nil {
		return nil, failure
	}
	return []entry{newEntry(path)}, nil
}

// uploadParts stores each part that is called "file": at the path of the query if there is one,
// which then fits one file only, else at the part's own file name.
func (h *Handler) uploadParts(r *http.Request, boundary string, u *user.User) ([]entry, *apierror.Error) {
	if boundary == "" {
		return nil, apierror.New(http.StatusBadRequest, "the multipart boundary is missing")
	}
	reader, written := multipart.NewReader(r.Body, boundary), []entry{}
	for count := 0; ; count++ {
		part, err := reader.NextRawPart()
		if err == io.EOF { // not errors.Is: a body without its last boundary gives a wrapped EOF
			return written, nil
		}
		if err != nil {
			return nil, apierror.New(http.StatusBadRequest, "malformed multipart body: %v", err)
		}
		if count == maxParts {
			return nil, apierror.New(http.StatusBadRequest, "more than %d parts in one upload", maxParts)
		}
		if part.FormName() != "file" {
			continue
		}
		path, failure := partPath(r, part, u.Home, len(written))
		if failure != nil {
			return nil, failure
		}
		if failure := write(path, u, part); failure != nil {
			return nil, failure
		}
		written = append(written, newEntry(path))
	}
}

func partPath(r *http.Request, part *multipart.Part, home string, before int) (string, *apierror.Error) {
	if text := r.URL.Query().Get("path"); text != "" {
		if before > 0 {
			return "", apierror.New(http.StatusBadRequest, "several files for the one path '%s'; the first was stored", text)
		}
		return absolute(text, home)
	}
	// Part.FileName would keep the last element only.
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return "", apierror.New(http.StatusBadRequest, "malformed Content-Disposition of a part")
	}
	return absolute(params["filename"], home)
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
