package wrenn

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// TimeoutAction is what happens at the end of a sandbox's timeout.
type TimeoutAction string

// The actions.
const (
	DestroyOnTimeout TimeoutAction = "destroy" // whether it runs or sleeps
	PauseOnTimeout   TimeoutAction = "pause"   // with the next resume the timeout begins anew
)

// Lifecycle is what becomes of a sandbox by itself. The zero duration of each means never.
type Lifecycle struct {
	AutoPauseAfter     time.Duration // without use, of one that runs
	AutoHibernateAfter time.Duration // of one that is paused
	AutoDestroyAfter   time.Duration // of one that sleeps or has failed
	Timeout            time.Duration // from its start, or from when this was set, whatever it does meanwhile
	OnTimeout          TimeoutAction
	TimeoutAt          time.Time  // zero for none
	Upcoming           []Upcoming // what becomes of it as it is now, the first thing first
}

// Upcoming is something that will happen to a sandbox by itself. Every use puts off a pause for want of use.
type Upcoming struct {
	Action  string    `json:"action"` // pause, hibernate or destroy
	At      time.Time `json:"at"`
	Because string    `json:"because"` // auto_pause, auto_hibernate, auto_destroy or timeout
}

// LifecycleChange says what of a lifecycle is to be another one. What is nil or "" stays, or is the service's default for a new sandbox; 0 means never.
// Durations count in whole seconds, and are rounded up to them.
type LifecycleChange struct {
	AutoPauseAfter     *time.Duration // at least 5 s
	AutoHibernateAfter *time.Duration
	AutoDestroyAfter   *time.Duration
	Timeout            *time.Duration // begins anew, also when it is the same
	OnTimeout          TimeoutAction
}

// lifecycleWire is the form of both in JSON.
type lifecycleWire struct {
	AutoPause     *wireSeconds  `json:"auto_pause_after_seconds,omitempty"`
	AutoHibernate *wireSeconds  `json:"auto_hibernate_after_seconds,omitempty"`
	AutoDestroy   *wireSeconds  `json:"auto_destroy_after_seconds,omitempty"`
	Timeout       *wireSeconds  `json:"timeout_seconds,omitempty"`
	OnTimeout     TimeoutAction `json:"on_timeout,omitempty"`
	TimeoutAt     time.Time     `json:"timeout_at,omitzero"`
	Upcoming      []Upcoming    `json:"upcoming,omitempty"`
}

// wireSeconds is a duration in whole seconds.
type wireSeconds time.Duration

// MarshalJSON implements json.Marshaler.
func (s wireSeconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(int64((time.Duration(s) + time.Second - 1) / time.Second))
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *wireSeconds) UnmarshalJSON(b []byte) error {
	var seconds int64
	err := json.Unmarshal(b, &seconds)
	*s = wireSeconds(time.Duration(seconds) * time.Second)
	return err
}

// MarshalJSON implements json.Marshaler.
func (c LifecycleChange) MarshalJSON() ([]byte, error) {
	return json.Marshal(lifecycleWire{
		AutoPause: (*wireSeconds)(c.AutoPauseAfter), AutoHibernate: (*wireSeconds)(c.AutoHibernateAfter), AutoDestroy: (*wireSeconds)(c.AutoDestroyAfter),
		Timeout: (*wireSeconds)(c.Timeout), OnTimeout: c.OnTimeout,
	})
}

// MarshalJSON implements json.Marshaler, in the service's own form.
func (l Lifecycle) MarshalJSON() ([]byte, error) {
	return json.Marshal(lifecycleWire{
		AutoPause: (*wireSeconds)(&l.AutoPauseAfter), AutoHibernate: (*wireSeconds)(&l.AutoHibernateAfter), AutoDestroy: (*wireSeconds)(&l.AutoDestroyAfter),
		Timeout: (*wireSeconds)(&l.Timeout), OnTimeout: l.OnTimeout, TimeoutAt: l.TimeoutAt, Upcoming: l.Upcoming,
	})
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *Lifecycle) UnmarshalJSON(b []byte) error {
	var pause, hibernate, destroy, timeout wireSeconds
	w := lifecycleWire{AutoPause: &pause, AutoHibernate: &hibernate, AutoDestroy: &destroy, Timeout: &timeout}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*l = Lifecycle{
		AutoPauseAfter: time.Duration(pause), AutoHibernateAfter: time.Duration(hibernate), AutoDestroyAfter: time.Duration(destroy),
		Timeout: time.Duration(timeout), OnTimeout: w.OnTimeout, TimeoutAt: w.TimeoutAt, Upcoming: w.Upcoming,
	}
	return nil
}

// SetLifecycle changes what becomes of a sandbox by itself, in whatever state it is unless it is being destroyed, and returns the sandbox. It may be repeated.
func (c *Client) SetLifecycle(ctx context.Context, id string, change LifecycleChange) (*Sandbox, error) {
	path, err := sandboxPath(id)
	if err != nil {
		return nil, err
	}
	if err := encodable("on_timeout", func(yield func(string) bool) { yield(string(change.OnTimeout)) }); err != nil {
		return nil, err
	}
	var s Sandbox
	body := struct {
		Lifecycle LifecycleChange `json:"lifecycle"`
	}{change}
	if err := c.call(ctx, http.MethodPatch, path, body, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// SetTimeout has a sandbox's timeout end so long from now on, and returns the sandbox; with 0 it has none. What happens then stays as it is: Lifecycle.OnTimeout.
func (c *Client) SetTimeout(ctx context.Context, id string, timeout time.Duration) (*Sandbox, error) {
	return c.SetLifecycle(ctx, id, LifecycleChange{Timeout: &timeout})
}
