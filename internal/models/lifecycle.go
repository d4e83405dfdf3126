package models

import "time"

// Lifecycle is what becomes of a sandbox by itself. The zero duration of each means never.
type Lifecycle struct {
	AutoPause     time.Duration // without use, of one that runs
	AutoHibernate time.Duration // asleep, of one that is paused
	AutoDestroy   time.Duration // asleep, or since it has failed
	Timeout       time.Duration // from its start, or from when this was set, whatever it does meanwhile
	OnTimeout     TimeoutAction
}

// TimeoutAction is what happens at the end of a sandbox's timeout. The values equal those of the API.
type TimeoutAction string

// The actions.
const (
	DestroyOnTimeout TimeoutAction = "destroy" // whether it runs or sleeps
	PauseOnTimeout   TimeoutAction = "pause"   // nothing, where it sleeps already; with the next resume the timeout begins anew
)

// Limits of a lifecycle. Sandboxes in use are noted in the database every few seconds: a shorter idle time could not be told from use.
const (
	MinAutoPause = 5 * time.Second
	MinLifecycle = time.Second
	MaxLifecycle = 366 * 24 * time.Hour
)

// LifecycleChange says what of a lifecycle is to be another one. What is nil stays.
type LifecycleChange struct {
	AutoPause     *time.Duration
	AutoHibernate *time.Duration
	AutoDestroy   *time.Duration
	Timeout       *time.Duration // also when it is the same: it begins anew
	OnTimeout     *TimeoutAction
}

// Of returns l as the change makes it.
func (c LifecycleChange) Of(l Lifecycle) Lifecycle {
	replace(&l.AutoPause, c.AutoPause)
	replace(&l.AutoHibernate, c.AutoHibernate)
	replace(&l.AutoDestroy, c.AutoDestroy)
	replace(&l.Timeout, c.Timeout)
	replace(&l.OnTimeout, c.OnTimeout)
	return l
}

func replace[T any](v, by *T) {
	if by != nil {
		*v = *by
	}
}

// CheckLifecycle returns an Invalid error that names the first member out of range, by its name in the API.
func CheckLifecycle(l Lifecycle) error {
	for _, m := range []struct {
		name  string
		value time.Duration
		least time.Duration
	}{
		{"lifecycle.auto_pause_after_seconds", l.AutoPause, MinAutoPause},
		{"lifecycle.auto_hibernate_after_seconds", l.AutoHibernate, MinLifecycle},
		{"lifecycle.auto_destroy_after_seconds", l.AutoDestroy, MinLifecycle},
		{"lifecycle.timeout_seconds", l.Timeout, MinLifecycle},
	} {
		if m.value%time.Second != 0 {
			return Errorf(Invalid, "%s must be whole seconds, not %s", m.name, m.value)
		}
		if m.value != 0 && (m.value < m.least || m.value > MaxLifecycle) {
			return Errorf(Invalid, "%s must be 0 (never) or between %d and %d, not %d", m.name, seconds(m.least), seconds(MaxLifecycle), seconds(m.value))
		}
	}
	if l.OnTimeout != DestroyOnTimeout && l.OnTimeout != PauseOnTimeout {
		return Errorf(Invalid, "lifecycle.on_timeout must be %q or %q, not %q", DestroyOnTimeout, PauseOnTimeout, l.OnTimeout)
	}
	return nil
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
