package files

import (
	"errors"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// Chmod serves POST /chmod.
func (h *Handler) Chmod(w http.ResponseWriter, r *http.Request) {
	if failure := h.chmod(r); failure != nil {
		failure.Write(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *Handler) chmod(r *http.Request) *apierror.Error {
	_, path, failure := h.target(r)
	if failure != nil {
		return failure
	}
	query := r.URL.Query()
	mode, err := filesystem.ParseMode(query.Get("mode"))
	if err != nil {
		return apierror.New(http.StatusBadRequest, "%v", err)
	}
	recursive := false
	if text := query.Get("recursive"); text != "" {
		if recursive, err = strconv.ParseBool(text); err != nil {
			return apierror.New(http.StatusBadRequest, "recursive is true or false, not %q", text)
		}
	}
	return chmodError(path, filesystem.Chmod(r.Context(), path, mode, recursive))
}

// chmodError has the statuses of pathError and the text of what failed, which may be below path.
func chmodError(path string, err error) *apierror.Error {
	var coded *filesystem.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &coded):
		return apierror.New(http.StatusBadRequest, "the caller went away: %v", err)
	case coded.Err == nil:
		return apierror.New(http.StatusBadRequest, "%v", coded)
	}
	return apierror.New(pathError(path, coded.Err).Status, "%v", coded)
}
