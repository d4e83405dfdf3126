package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// lifecycleFlags are those of what becomes of a sandbox by itself.
type lifecycleFlags struct {
	autoPause, autoHibernate, autoDestroy time.Duration
	timeout                               time.Duration // its flag, or argument, is declared by the command
	onTimeout                             string
}

func (l *lifecycleFlags) declare(f *pflag.FlagSet) {
	f.DurationVar(&l.autoPause, "auto-pause", 0, "pause it when nobody has used it for so long, such as 10m (0: never)")
	f.DurationVar(&l.autoHibernate, "auto-hibernate", 0, "hibernate it when it has been paused for so long (0: never)")
	f.DurationVar(&l.autoDestroy, "auto-destroy", 0, "destroy it when it has slept for so long, or has failed so long ago (0: never)")
	f.StringVar(&l.onTimeout, "on-timeout", "", "destroy or pause: what happens when its timeout ends (default destroy)")
}

// change returns what the flags ask for, nil when none of them is given.
func (l *lifecycleFlags) change(f *pflag.FlagSet) *wrenn.LifecycleChange {
	c := wrenn.LifecycleChange{OnTimeout: wrenn.TimeoutAction(l.onTimeout)}
	for name, of := range map[string]struct {
		value *time.Duration
		into  **time.Duration
	}{
		"auto-pause": {&l.autoPause, &c.AutoPauseAfter}, "auto-hibernate": {&l.autoHibernate, &c.AutoHibernateAfter},
		"auto-destroy": {&l.autoDestroy, &c.AutoDestroyAfter}, "timeout": {&l.timeout, &c.Timeout},
	} {
		if f.Changed(name) {
			*of.into = of.value
		}
	}
	if c == (wrenn.LifecycleChange{}) {
		return nil
	}
	return &c
}

func newTimeout(a *app) *cobra.Command {
	var flags lifecycleFlags
	cmd := &cobra.Command{
		Use:   "timeout SANDBOX [DURATION]",
		Short: "Set what becomes of a sandbox by itself, and show it",
		Long: `Has a sandbox's timeout end so long from now on (0: never), and sets what else becomes of it by itself. What is not named stays as it is. Prints what will happen
next, and when; with nothing named, it prints that only.`,
		Example: `  wrenn timeout sb-0a1b2c3d 1h
  wrenn timeout sb-0a1b2c3d 8h --on-timeout pause
  wrenn timeout sb-0a1b2c3d --auto-pause 10m --auto-destroy 168h`,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.sandboxIDs,
	}
	flags.declare(cmd.Flags())
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change := flags.change(cmd.Flags())
		if len(args) == 2 {
			timeout, err := time.ParseDuration(args[1])
			if err != nil {
				return models.Errorf(models.Invalid, "%q is no duration", args[1]).WithHint("such as 90s, 10m, 1h30m; 0 for none")
			}
			if change == nil {
				change = &wrenn.LifecycleChange{}
			}
			change.Timeout = &timeout
		}
		s, err := a.setLifecycle(cmd, args[0], change)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, s.Lifecycle)
		}
		return printTable(a.stdout, []string{"id", s.ID}, lifecycleRows(s))
	}
	return cmd
}

// setLifecycle makes a change, if there is one, and returns the sandbox.
func (a *app) setLifecycle(cmd *cobra.Command, id string, change *wrenn.LifecycleChange) (*wrenn.Sandbox, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	var s *wrenn.Sandbox
	if change == nil {
		s, err = client.GetSandbox(cmd.Context(), id)
	} else {
		s, err = client.SetLifecycle(cmd.Context(), id, *change)
	}
	if err != nil {
		return nil, fmt.Errorf("set what becomes of the sandbox: %w", err)
	}
	return s, nil
}

// lifecycleRows show what becomes of a sandbox by itself, and when.
func lifecycleRows(s *wrenn.Sandbox) [][]string {
	var rows [][]string
	add := func(name string, d time.Duration, suffix string) {
		if d > 0 {
			rows = append(rows, []string{name, d.String() + suffix})
		}
	}
	l := s.Lifecycle
	add("auto-pause", l.AutoPauseAfter, " without use")
	add("auto-hibernate", l.AutoHibernateAfter, " paused")
	add("auto-destroy", l.AutoDestroyAfter, " asleep")
	add("timeout", l.Timeout, ", then "+string(l.OnTimeout))
	for _, u := range l.Upcoming {
		rows = append(rows, []string{"next " + u.Action, stamp(u.At) + " (" + u.Because + ")"})
	}
	if !s.VerifiedAt.IsZero() {
		rows = append(rows, []string{"snapshot verified", stamp(s.VerifiedAt)})
	}
	return rows
}
