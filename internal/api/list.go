package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	defaultPage = 50
	maxPage     = 200
)

// states are those that a list can be asked for, in the order of a sandbox's life.
var states = []models.State{
	models.Pending, models.Starting, models.Running, models.Pausing, models.Paused, models.Resuming, models.Stopping, models.Stopped, models.Failed,
	models.Hibernating, models.Hibernated,
}

func (s *Server) listSandboxes(w http.ResponseWriter, r *http.Request) error {
	f, err := filter(r)
	if err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.List(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, s.viewTold, func(sb models.Sandbox) string { return encodeCursor(sb.CreatedAt, sb.ID) }))
	return nil
}

// pageOf is the answer with at most so many items of a list. That found has one more tells that there is another page, which begins after cursor.
func pageOf[T, V any](found []T, most int, view func(T) V, cursor func(T) string) map[string]any {
	var next *string
	if len(found) > most {
		found = found[:most]
		last := cursor(found[most-1])
		next = &last
	}
	items := make([]V, len(found))
	for i, item := range found {
		items[i] = view(item)
	}
	return map[string]any{"items": items, "next_cursor": next}
}

func filter(r *http.Request) (db.Filter, error) {
	labels := metadataAsked(r)
	q, err := query(r, append([]string{"template", "limit", "cursor"}, labels...), "state")
	if err != nil {
		return db.Filter{}, err
	}
	f := db.Filter{Account: by(r).Account, Template: q.Get("template"), Metadata: map[string]string{}}
	for _, name := range labels {
		f.Metadata[strings.TrimPrefix(name, metadataPrefix)] = q.Get(name)
	}
	if err := checkMetadata(f.Metadata); err != nil {
		return f, err
	}
	if f.States, err = statesAsked(q); err != nil {
		return f, err
	}
	if err := checkText("template", f.Template, 0); err != nil {
		return f, err
	}
	f.Limit, f.Before, f.BeforeID, err = pageAsked(q, id.ParseSandbox)
	return f, err
}

// pageAsked returns how much of a list is asked for, and after which item; that is zero for the first page.
func pageAsked[ID ~string](q url.Values, parse func(string) (ID, error)) (limit int, before time.Time, beforeID ID, err error) {
	if limit, err = limitAsked(q); err == nil && q.Has("cursor") {
		before, beforeID, err = decodeCursor(q.Get("cursor"), parse)
	}
	return limit, before, beforeID, err
}

// metadataPrefix is what the names of query parameters begin with that ask for a label: metadata.KEY=VALUE.
const metadataPrefix = "metadata."

// metadataAsked returns the names of the parameters that ask for labels.
func metadataAsked(r *http.Request) []string {
	var names []string
	for name := range r.URL.Query() {
		if strings.HasPrefix(name, metadataPrefix) {
			names = append(names, name)
		}
	}
	return names
}

func limitAsked(q url.Values) (int, error) { return limitOf(q, defaultPage, maxPage) }

func limitOf(q url.Values, usual, most int) (int, error) {
	if !q.Has("limit") {
		return usual, nil
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 || limit > most {
		return 0, models.Errorf(models.Invalid, "limit must be an integer between 1 and %d", most)
	}
	return limit, nil
}

func statesAsked(q url.Values) ([]models.State, error) {
	if !q.Has("state") {
		return slices.DeleteFunc(slices.Clone(states), func(s models.State) bool { return s == models.Stopped }), nil
	}
	var asked []models.State
	for _, s := range q["state"] {
		if !slices.Contains(states, models.State(s)) {
			return nil, models.Errorf(models.Invalid, "there is no state %q", s).WithHint("there are: %s", joined(states))
		}
		asked = append(asked, models.State(s))
	}
	return asked, nil
}

func joined[S ~string](all []S) string {
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// A cursor is the place of the last item in the order of the list, (created_at, id), in
// microseconds as Postgres keeps them. Items that come or go move no other.
func encodeCursor[ID ~string](at time.Time, last ID) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", at.UnixMicro(), last))
}

func decodeCursor[ID ~string](s string, parse func(string) (ID, error)) (time.Time, ID, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	at, text, _ := strings.Cut(string(b), " ")
	micros, numberErr := strconv.ParseInt(at, 10, 64)
	last, idErr := parse(text)
	// Postgres ends in the year 294276; what comes from encodeCursor is in ours.
	if err != nil || numberErr != nil || idErr != nil || micros <= 0 || micros > 1<<52 {
		return time.Time{}, "", foreignCursor()
	}
	return time.UnixMicro(micros), last, nil
}

func foreignCursor() error {
	return models.Errorf(models.Invalid, "the cursor is not one of ours").WithHint("use next_cursor of the page before as it is")
}
