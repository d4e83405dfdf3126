package files

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// maxCompose bounds the body of /files/compose, and with it the number of sources.
const maxCompose = 1 << 20

// copyAtOnce is how much the kernel copies before the caller's absence is noticed.
const copyAtOnce = 64 << 20

type composeRequest struct {
	SourcePaths []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    string   `json:"username"`
}

// Compose serves POST /files/compose: the destination holds what the sources hold, one after the other,
// and the sources are removed. The kernel copies, and where the file system can, shares the blocks.
func (h *Handler) Compose(w http.ResponseWriter, r *http.Request) {
	path, failure := h.compose(r)
	if failure != nil {
		failure.Write(w)
		return
	}
	answer(w, newEntry(path))
}

func (h *Handler) compose(r *http.Request) (string, *apierror.Error) {
	request := composeRequest{}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxCompose)).Decode(&request); err != nil {
		return "", apierror.New(http.StatusBadRequest, "invalid request body: %v", err)
	}
	switch {
	case len(request.SourcePaths) == 0:
		return "", apierror.New(http.StatusBadRequest, "source_paths must not be empty")
	case request.Destination == "":
		return "", apierror.New(http.StatusBadRequest, "destination is required")
	}
	u, failure := h.lookup(request.Username)
	if failure != nil {
		return "", failure
	}
	path, failure := absolute(request.Destination, u)
	if failure != nil {
		return "", failure
	}
	sources, failure := request.sources(path, u)
	if failure != nil {
		return "", failure
	}
	return path, concatenate(r.Context(), path, sources, u)
}

// sources returns the paths of the sources, which are all there and are other files than path.
func (q *composeRequest) sources(path string, u *user.User) ([]string, *apierror.Error) {
	target, _ := os.Stat(path) // nil when there is none
	paths := make([]string, len(q.SourcePaths))
	for i, text := range q.SourcePaths {
		source, failure := absolute(text, u)
		if failure != nil {
			return nil, failure
		}
		info, err := os.Stat(source)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil, apierror.New(http.StatusNotFound, "source file not found: %s", text)
		case err != nil:
			return nil, pathError(source, err)
		case !info.Mode().IsRegular():
			return nil, apierror.New(http.StatusBadRequest, "source path is not a regular file: %s", text)
		case source == path || target != nil && os.SameFile(info, target):
			return nil, apierror.New(http.StatusBadRequest, "source path %q cannot be the same as destination", text)
		}
		paths[i] = source
	}
	return paths, nil
}

func concatenate(ctx context.Context, path string, sources []string, u *user.User) *apierror.Error {
	var failure *apierror.Error
	failed := write(path, u, content{fill: func(file *os.File) error {
		for _, source := range sources {
			if failure = appendFile(ctx, file, source); failure != nil {
				return failure
			}
		}
		return nil
	}})
	switch {
	case failure != nil:
		return failure
	case failed != nil:
		return failed
	}
	for _, source := range sources {
		_ = os.Remove(source) // one that stays does no harm; the same one may be listed twice
	}
	return nil
}

// appendFile copies a file to the end of another, by copy_file_range(2) if that is possible.
func appendFile(ctx context.Context, to *os.File, source string) *apierror.Error {
	from, _, failure := open(source)
	if failure != nil {
		return failure
	}
	defer func() { _ = from.Close() }()
	for {
		if err := ctx.Err(); err != nil {
			return apierror.New(http.StatusBadRequest, "the caller went away: %v", err)
		}
		n, err := to.ReadFrom(&io.LimitedReader{R: from, N: copyAtOnce})
		switch {
		case err != nil:
			return pathError(source, err)
		case n == 0:
			return nil
		}
	}
}
