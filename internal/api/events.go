package api

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	lastEventHeader = "Last-Event-ID"
	// maxHistory is the largest page of one sandbox's events, and eventsAtOnce how many are read at a time for a stream.
	maxHistory, eventsAtOnce = 1000, 200
)

// eventView is the schema Event.
type eventView struct {
	ID         string        `json:"id"`
	Sandbox    id.Sandbox    `json:"sandbox_id"`
	From       *models.State `json:"from"`
	To         models.State  `json:"to"`
	Reason     *string       `json:"reason"`
	Actor      string        `json:"actor"`
	At         apiTime       `json:"at"`
	Generation int64         `json:"generation"`
}

func viewOfEvent(e db.Event) eventView {
	return eventView{
		ID: strconv.FormatInt(e.ID, 10), Sandbox: e.Sandbox, From: orNull(e.From), To: e.To, Reason: orNull(e.Reason), Actor: e.Actor,
		At: apiTime(e.At), Generation: e.Generation,
	}
}

// sandboxEvents answers with the history of a sandbox, oldest first, or follows it.
func (s *Server) sandboxEvents(w http.ResponseWriter, r *http.Request) error {
	sb, err := sandboxID(r)
	if err != nil {
		return err
	}
	if _, err := s.Store.Sandbox(r.Context(), by(r).Account, sb); err != nil {
		return err
	}
	if accepts(r, eventStream) {
		return s.followEvents(w, r, nil, sb)
	}
	q, err := query(r, []string{"limit", "cursor"})
	if err != nil {
		return err
	}
	most, err := limitOf(q, maxHistory, maxHistory)
	if err != nil {
		return err
	}
	after, err := eventCursor(q)
	if err != nil {
		return err
	}
	found, err := s.Store.Events(r.Context(), sb, after, most+1) // see pageOf
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfEvent, func(e db.Event) string { return strconv.FormatInt(e.Generation, 10) }))
	return nil
}

// events answers with the events of the account, newest first, or follows them.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	if accepts(r, eventStream) {
		return s.followEvents(w, r, []string{"sandbox"}, "")
	}
	q, err := query(r, []string{"sandbox", "limit", "cursor"})
	if err != nil {
		return err
	}
	most, err := limitAsked(q)
	if err != nil {
		return err
	}
	f := db.EventFilter{Account: by(r).Account, Limit: most + 1} // see pageOf
	if f.Before, err = eventCursor(q); err != nil {
		return err
	}
	if f.Sandbox, err = sandboxAsked(q); err != nil {
		return err
	}
	if f.Horizon, err = s.Store.EventHorizon(r.Context()); err != nil {
		return err
	}
	found, err := s.Store.ListEvents(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfEvent, func(e db.Event) string { return strconv.FormatInt(e.ID, 10) }))
	return nil
}

// eventCursor returns the place of the last event of the page before; 0 for the first page.
func eventCursor(q url.Values) (int64, error) {
	if !q.Has("cursor") {
		return 0, nil
	}
	at, err := strconv.ParseInt(q.Get("cursor"), 10, 64)
	if err != nil || at < 1 {
		return 0, models.Errorf(models.Invalid, "the cursor is not one of ours").WithHint("use next_cursor of the page before as it is")
	}
	return at, nil
}

// followEvents streams what happens from now on, or since the event that the client had last, until the client goes or the service stops.
func (s *Server) followEvents(w http.ResponseWriter, r *http.Request, known []string, sb id.Sandbox) error {
	q, err := query(r, known)
	if err != nil {
		return err
	}
	f := db.EventFilter{Account: by(r).Account, Sandbox: sb, Limit: eventsAtOnce}
	if sb == "" {
		if f.Sandbox, err = sandboxAsked(q); err != nil {
			return err
		}
	}
	follower, horizon, err := s.Feed.Follow(r.Context(), f.Account)
	if err != nil {
		return err
	}
	defer follower.Close()
	if f.After, err = lastEvent(r, horizon); err != nil {
		return err
	}
	e := s.newEvents(w)
	defer e.keepOpen(s.Limits.KeepOpen, func() {})()
	e.sendID(strconv.FormatInt(f.After, 10), "following", struct{}{}) // the client knows now that it misses nothing any more, and where to go on
	for more := true; more && e.failure() == nil; {
		f.Horizon = max(f.Horizon, horizon)
		if err := s.sendEvents(r, e, &f); err != nil {
			e.sendError(r, "error", err)
			return nil
		}
		horizon, more = follower.Next(r.Context())
	}
	return nil
}

// lastEvent returns the id of the event after which a client goes on.
func lastEvent(r *http.Request, horizon int64) (int64, error) {
	text := r.Header.Get(lastEventHeader)
	if text == "" {
		return horizon, nil
	}
	after, err := strconv.ParseInt(text, 10, 64)
	if err != nil || after < 0 || after > horizon {
		return 0, models.Errorf(models.Invalid, "%s is not the id of an event", lastEventHeader).WithHint("leave it out to begin with what happens from now on")
	}
	return after, nil
}

// sendEvents sends the events up to f's horizon.
func (s *Server) sendEvents(r *http.Request, e *events, f *db.EventFilter) error {
	for e.failure() == nil {
		found, err := s.Store.EventsAfter(r.Context(), *f)
		if err != nil {
			return err
		}
		for _, one := range found {
			v := viewOfEvent(one)
			e.sendID(v.ID, "state", v)
			f.After = one.ID
		}
		if len(found) < f.Limit {
			f.After = f.Horizon
			return nil
		}
	}
	return nil
}
