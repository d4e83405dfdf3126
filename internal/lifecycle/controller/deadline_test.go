package controller

import (
	"fmt"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// TestEveryPassingStateHasAnEnd: a row whose control plane has died in whichever passing state is what its host says, once its deadline has passed, also where that is what it was
// before; and the host holds nothing that the row does not want.
func TestEveryPassingStateHasAnEnd(t *testing.T) {
	const gone = pb.SandboxState_SANDBOX_STATE_GONE
	for _, c := range []struct {
		state models.State
		host  pb.SandboxState
		want  models.State
	}{
		{models.Starting, pb.SandboxState_SANDBOX_STATE_RUNNING, models.Running},
		{models.Starting, pb.SandboxState_SANDBOX_STATE_FAILED, models.Failed},
		{models.Starting, gone, models.Failed},
		{models.Pausing, pb.SandboxState_SANDBOX_STATE_RUNNING, models.Running},
		{models.Pausing, pb.SandboxState_SANDBOX_STATE_PAUSED, models.Paused},
		{models.Pausing, pb.SandboxState_SANDBOX_STATE_FAILED, models.Failed},
		{models.Pausing, gone, models.Failed},
		{models.Resuming, pb.SandboxState_SANDBOX_STATE_PAUSED, models.Paused},
		{models.Resuming, pb.SandboxState_SANDBOX_STATE_RUNNING, models.Running},
		{models.Resuming, pb.SandboxState_SANDBOX_STATE_FAILED, models.Failed},
		{models.Resuming, gone, models.Failed},
		{models.Stopping, pb.SandboxState_SANDBOX_STATE_RUNNING, models.Stopped},
		{models.Stopping, pb.SandboxState_SANDBOX_STATE_PAUSED, models.Stopped},
		{models.Stopping, gone, models.Stopped},
	} {
		t.Run(fmt.Sprintf("%s, on its host %s", c.state, c.host), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			first := r.start(r.store, Limits{}, Pace{})
			sb := r.create(first)
			first.end()
			r.sql(fmt.Sprintf("UPDATE sandboxes SET state = '%s' WHERE id = '%s'", c.state, sb.ID))
			r.expire(sb.ID)
			if c.host == gone {
				r.sim.Lose(string(sb.ID), false)
			} else {
				r.sim.Put(string(sb.ID), c.host, "")
			}
			r.start(r.store, Limits{}, quick)
			now := r.becomes(sb.ID, c.want)
			if !now.Deadline.IsZero() {
				t.Errorf("it has a deadline still: %s", now.Deadline)
			}
			if c.want == models.Stopped {
				r.holds(0)
			}
		})
	}
	t.Run("pending", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		first := r.start(r.store, Limits{}, Pace{})
		sb := r.create(first)
		first.end()
		r.sql(fmt.Sprintf("UPDATE sandboxes SET state = 'pending', host_id = NULL WHERE id = '%s'", sb.ID))
		r.expire(sb.ID)
		r.start(r.store, Limits{}, quick)
		r.becomes(sb.ID, models.Failed)
		r.holds(0) // no row wants what lies there
	})
}
