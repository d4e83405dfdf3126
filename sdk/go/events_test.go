package wrenn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
)

const eventJSON = `{"id":"%d","sandbox_id":"sb-01234567","from":"starting","to":"running","reason":null,"actor":"system","at":"2026-01-02T03:04:05Z","generation":3}`

// TestFollowEventsGoesOn: after each break from the last id on, also where no event has come yet; an error of the service ends it.
func TestFollowEventsGoesOn(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream")
		switch len(asked) {
		case 1:
			fmt.Fprint(w, "id: 7\nevent: following\ndata: {}\n\n") // and it breaks
		case 2:
			fmt.Fprintf(w, "id: 8\nevent: state\ndata: "+eventJSON+"\n\nid: 9\nevent: state\ndata: "+eventJSON+"\n\n", 8, 9)
		case 3:
			w.Header().Set("Content-Type", "application/json")
			answer(w, 503, "")
		case 4:
			fmt.Fprintf(w, ": still running\n\nevent: unknown\ndata: {}\n\nid: 10\nevent: state\ndata: "+eventJSON+"\n\n", 10)
		default:
			answer(w, 403, `{"error":{"code":"forbidden","message":"no","request_id":"r"}}`)
		}
	})
	var got []string
	var last error
	for e, err := range c.FollowEvents(t.Context(), FollowOptions{Sandbox: testID}) {
		if last = err; err == nil {
			got = append(got, e.ID)
		}
	}
	if !slices.Equal(got, []string{"8", "9", "10"}) || !slices.Equal(asked, []string{"", "7", "9", "9", "10"}) || CodeOf(last) != Forbidden {
		t.Errorf("events %v, asked after %v, %v", got, asked, last)
	}
}

func TestFollowEventsEnds(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "id: 8\nevent: state\ndata: "+eventJSON+"\n\n", 8)
		_ = http.NewResponseController(w).Flush() // the client's test sees what is missing
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range c.FollowEvents(ctx, FollowOptions{}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("it ended with %v", last)
	}
	for _, err := range c.FollowEvents(t.Context(), FollowOptions{}) { // whoever stops is not held up
		_ = err
		break
	}
}

func TestEventPages(t *testing.T) {
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		next := `"3"`
		if r.URL.Query().Get("cursor") != "" {
			next = "null"
		}
		answer(w, 200, fmt.Sprintf(`{"items":[`+eventJSON+`],"next_cursor":`+next+`}`, 4))
	})
	n := 0
	for e, err := range c.AllEvents(t.Context(), EventOptions{Sandbox: testID, Limit: 1}) {
		if n++; err != nil || e.ID != "4" || e.SandboxID != testID || e.To != Running {
			t.Errorf("%+v, %v", e, err)
		}
	}
	want := []string{"/v1/events?limit=1&sandbox=" + testID, "/v1/events?cursor=3&limit=1&sandbox=" + testID}
	if n != 2 || !slices.Equal(asked, want) {
		t.Errorf("%d events, asked %v", n, asked)
	}
}
