package controller

import (
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestPresent: a user whose sandbox is there never hears that it is not, also while its host has lost it and its row does not say so yet.
func TestPresent(t *testing.T) {
	for name, use := range map[string]func(c *replica, r *rig, sb models.Sandbox) error{
		"guest": func(c *replica, r *rig, sb models.Sandbox) error {
			guest, err := c.Guest(t.Context(), r.by.Account, sb.ID)
			if err == nil {
				_, err = guest.Tunnel(t.Context())
			}
			return err
		},
		"pause": func(c *replica, r *rig, sb models.Sandbox) error {
			_, err := c.Pause(t.Context(), r.request(), sb.ID)
			return err
		},
		"policy": func(c *replica, r *rig, sb models.Sandbox) error {
			off := false
			_, err := c.SetNetwork(t.Context(), r.request(), sb.ID, models.NetworkChange{Internet: &off})
			return err
		},
		"fork": func(c *replica, r *rig, sb models.Sandbox) error {
			_, err := c.Fork(t.Context(), r.request(), sb.ID, ForkRequest{Count: 1})
			return err
		},
		"snapshot": func(c *replica, r *rig, sb models.Sandbox) error {
			_, err := c.CreateSnapshot(t.Context(), r.request(), sb.ID, "kept")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.start(r.store, Limits{}, Pace{}) // without a reconciler
			sb := r.create(c)
			r.sim.Lose(string(sb.ID), true)
			if err := use(c, r, sb); models.CodeOf(err) != models.Unavailable {
				t.Errorf("%v", err)
			}
		})
	}
}
