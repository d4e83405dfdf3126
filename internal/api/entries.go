package api

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxDepth is how deep a listing may go.
const maxDepth = 32

// entryView is the schema Entry.
type entryView struct {
	Name          string               `json:"name"`
	Path          string               `json:"path"`
	Type          envdclient.EntryType `json:"type"`
	Size          int64                `json:"size"`
	Mode          string               `json:"mode"`
	Owner         string               `json:"owner"`
	Group         string               `json:"group"`
	ModifiedAt    apiTime              `json:"modified_at"`
	SymlinkTarget *string              `json:"symlink_target"`
}

func viewOfEntry(e envdclient.Entry) entryView {
	return entryView{
		Name: e.Name, Path: e.Path, Type: e.Type, Size: e.Size, Mode: fmt.Sprintf("%04o", e.Mode),
		Owner: e.Owner, Group: e.Group, ModifiedAt: apiTime(e.ModifiedAt), SymlinkTarget: orNull(e.SymlinkTarget),
	}
}

// listingView is the schema Listing.
type listingView struct {
	Path  string      `json:"path"`
	Items []entryView `json:"items"`
}

func (s *Server) answerListing(w http.ResponseWriter, r *http.Request, guest *envdclient.Client, dir envdclient.Entry, f fileName) error {
	entries, err := guest.List(r.Context(), dir.Path, f.user, f.depth)
	if err != nil {
		return err
	}
	view := listingView{Path: dir.Path, Items: make([]entryView, len(entries))}
	for i, e := range entries {
		view.Items[i] = viewOfEntry(e)
	}
	s.writeJSON(w, http.StatusOK, view)
	return nil
}

// fileBody is the schema FilePath.
type fileBody struct {
	Path string `json:"path"`
	User string `json:"user"`
}

func (s *Server) makeDirectory(w http.ResponseWriter, r *http.Request) error {
	var in fileBody
	guest, err := s.fileOperation(w, r, &in, func() error { return checkFile(in.User, in.Path) })
	if err != nil {
		return err
	}
	e, err := guest.MakeDir(r.Context(), in.Path, in.User)
	if models.CodeOf(err) == models.Conflict { // it is there
		e, err = guest.Stat(r.Context(), in.Path, in.User)
	}
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfEntry(e))
	return nil
}

// moveBody is the schema MoveFile.
type moveBody struct {
	From string `json:"from"`
	To   string `json:"to"`
	User string `json:"user"`
}

func (s *Server) moveFile(w http.ResponseWriter, r *http.Request) error {
	var in moveBody
	guest, err := s.fileOperation(w, r, &in, func() error { return checkFile(in.User, in.From, in.To) })
	if err != nil {
		return err
	}
	e, err := guest.Move(r.Context(), in.From, in.To, in.User)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfEntry(e))
	return nil
}

// modeBody is the schema ChangeMode.
type modeBody struct {
	Path      string `json:"path"`
	Mode      string `json:"mode"`
	Recursive bool   `json:"recursive"`
	User      string `json:"user"`
}

var modeForm = regexp.MustCompile(`^[0-7]{3,4}$`)

func (in *modeBody) check() error {
	if _, err := parseMode(in.Mode); err != nil {
		return err
	}
	return checkFile(in.User, in.Path)
}

func parseMode(text string) (uint32, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || !modeForm.MatchString(text) {
		return 0, models.Errorf(models.Invalid, "mode must be three or four octal digits, such as 0755")
	}
	return uint32(mode), nil
}

func (s *Server) changeMode(w http.ResponseWriter, r *http.Request) error {
	var in modeBody
	guest, err := s.fileOperation(w, r, &in, in.check)
	if err != nil {
		return err
	}
	mode, err := parseMode(in.Mode)
	if err != nil {
		return err
	}
	if err := guest.Chmod(r.Context(), in.Path, in.User, mode, in.Recursive); err != nil {
		return err
	}
	e, err := guest.Stat(r.Context(), in.Path, in.User)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfEntry(e))
	return nil
}

// fileOperation reads the body of an operation on files, checks it, and returns the guest.
func (s *Server) fileOperation(w http.ResponseWriter, r *http.Request, in any, check func() error) (*envdclient.Client, error) {
	sb, err := plainID(r)
	if err != nil {
		return nil, err
	}
	if err := s.decodeJSON(w, r, in); err != nil {
		return nil, err
	}
	if err := check(); err != nil {
		return nil, err
	}
	return s.guest(r, sb)
}

func checkFile(user string, paths ...string) error {
	for _, p := range paths {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	return checkText("user", user, 0)
}

func (s *Server) removeFile(w http.ResponseWriter, r *http.Request) error {
	f, err := fileRef(r)
	if err != nil {
		return err
	}
	guest, err := s.guest(r, f.sandbox)
	if err != nil {
		return err
	}
	if _, err := guest.Stat(r.Context(), f.path, f.user); err != nil {
		return err
	}
	if err := guest.Remove(r.Context(), f.path, f.user); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) error {
	sb, err := sandboxID(r)
	if err != nil {
		return err
	}
	q, err := query(r, []string{"path", "recursive", "user"})
	if err != nil {
		return err
	}
	recursive, err := boolean(q, "recursive")
	if err != nil {
		return err
	}
	path, user := q.Get("path"), q.Get("user")
	if err := checkFile(user, path); err != nil {
		return err
	}
	guest, used, err := s.connection(r, sb)
	if err != nil {
		return err
	}
	ctx, cancel := s.untilEnd(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	changes, err := guest.Watch(ctx, path, user, recursive)
	if err != nil {
		return err
	}
	defer changes.Close()
	e := s.newEvents(w)
	e.send("watching", struct{}{})
	defer e.keepOpen(s.Limits.KeepOpen, cancel)()
	for e.failure() == nil {
		change, err := changes.Next()
		if err != nil {
			e.sendError(r, "error", err)
			break
		}
		used()
		e.send("change", map[string]any{"path": change.Name, "type": change.Type})
	}
	return nil
}
