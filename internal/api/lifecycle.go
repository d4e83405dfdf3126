package api

import (
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// lifecycleRequest is the schema LifecycleChange.
type lifecycleRequest struct {
	AutoPause     *int    `json:"auto_pause_after_seconds"`
	AutoHibernate *int    `json:"auto_hibernate_after_seconds"`
	AutoDestroy   *int    `json:"auto_destroy_after_seconds"`
	Timeout       *int    `json:"timeout_seconds"`
	OnTimeout     *string `json:"on_timeout"`
}

// UnmarshalJSON is as strict with members as decodeJSON.
func (l *lifecycleRequest) UnmarshalJSON(b []byte) error {
	type plain lifecycleRequest
	return unmarshalMember("lifecycle", b, (*plain)(l))
}

// change returns what is asked for; nothing where there is no request.
func (l *lifecycleRequest) change() (c models.LifecycleChange, err error) {
	if l == nil {
		return c, nil
	}
	if *l == (lifecycleRequest{}) {
		return c, models.Errorf(models.Invalid, "lifecycle changes nothing").WithHint("a member that is left out stays as it is; 0 means never")
	}
	for _, m := range []struct {
		name    string
		seconds *int
		into    **time.Duration
	}{
		{"auto_pause_after_seconds", l.AutoPause, &c.AutoPause}, {"auto_hibernate_after_seconds", l.AutoHibernate, &c.AutoHibernate},
		{"auto_destroy_after_seconds", l.AutoDestroy, &c.AutoDestroy}, {"timeout_seconds", l.Timeout, &c.Timeout},
	} {
		if m.seconds == nil {
			continue
		}
		if *m.seconds < 0 || *m.seconds > int(models.MaxLifecycle/time.Second) { // beyond what a duration holds, perhaps
			return c, models.Errorf(models.Invalid, "lifecycle.%s must be 0 (never) or at most %d, not %d", m.name, int(models.MaxLifecycle/time.Second), *m.seconds)
		}
		d := time.Duration(*m.seconds) * time.Second
		*m.into = &d
	}
	if l.OnTimeout != nil {
		on := models.TimeoutAction(*l.OnTimeout)
		c.OnTimeout = &on
	}
	return c, nil
}

// lifecycleView is the schema Lifecycle.
type lifecycleView struct {
	AutoPause     int64                `json:"auto_pause_after_seconds"`
	AutoHibernate int64                `json:"auto_hibernate_after_seconds"`
	AutoDestroy   int64                `json:"auto_destroy_after_seconds"`
	Timeout       int64                `json:"timeout_seconds"`
	OnTimeout     models.TimeoutAction `json:"on_timeout"`
	TimeoutAt     apiTime              `json:"timeout_at"`
	Upcoming      []upcomingView       `json:"upcoming"`
}

type upcomingView struct {
	Action  lifecycle.Operation `json:"action"`
	At      apiTime             `json:"at"`
	Because lifecycle.Cause     `json:"because"`
}

func viewOfLifecycle(sb models.Sandbox) lifecycleView {
	l, steps := sb.Lifecycle, lifecycle.Steps(sb)
	v := lifecycleView{
		AutoPause: wholeSeconds(l.AutoPause), AutoHibernate: wholeSeconds(l.AutoHibernate), AutoDestroy: wholeSeconds(l.AutoDestroy),
		Timeout: wholeSeconds(l.Timeout), OnTimeout: l.OnTimeout, TimeoutAt: apiTime(sb.TimeoutAt), Upcoming: make([]upcomingView, len(steps)),
	}
	for i, step := range steps {
		v.Upcoming[i] = upcomingView{Action: step.Operation, At: apiTime(step.At), Because: step.Cause}
	}
	return v
}

func wholeSeconds(d time.Duration) int64 { return int64(d / time.Second) }
