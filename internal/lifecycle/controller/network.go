package controller

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// SetNetwork changes the network policy of a running or paused sandbox and returns the sandbox once the policy is in force on its
// host. When the host cannot be told, the policy is recorded all the same, the error says that it is not in force yet, and the
// reconciler goes on. Precondition when the sandbox is neither, Conflict when the policy has another generation
// than the change is for. It goes on when ctx ends.
func (c *Controller) SetNetwork(ctx context.Context, by By, sb id.Sandbox, change models.NetworkChange) (models.Sandbox, error) {
	return c.detached(ctx, networkOp, func(ctx context.Context) (models.Sandbox, error) {
		row, err := c.recordNetwork(ctx, by, sb, change)
		if err != nil {
			return models.Sandbox{}, err
		}
		client, err := c.Fleet.Client(row.Host)
		if err == nil {
			err = apply(ctx, client, row)
		}
		c.noteNetwork(ctx, by.db(), row, err)
		if err != nil {
			return models.Sandbox{}, notInForce(row, err)
		}
		return row, nil
	})
}

func (c *Controller) recordNetwork(ctx context.Context, by By, sb id.Sandbox, change models.NetworkChange) (models.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	return c.Store.ChangeNetwork(ctx, by.Account, sb, by.db(), func(now models.Sandbox) (models.NetworkPolicy, error) {
		if !networked(now) {
			return models.NetworkPolicy{}, notRunning(now)
		}
		if change.Generation != nil && *change.Generation != now.Network.Generation {
			return models.NetworkPolicy{}, models.Errorf(models.Conflict, "the network policy of %s has generation %d, not %d", sb, now.Network.Generation, *change.Generation).
				WithHint("look at it again, and decide anew")
		}
		policy := change.Of(now.Network)
		return policy, models.CheckNetwork(policy, c.PrivateNetworks)
	})
}

// networked tells whether a sandbox has its network: one that is paused keeps it.
func networked(sb models.Sandbox) bool {
	return sb.State == models.Running || sb.State == models.Paused
}

// apply has the host put the row's policy, or the newer one that it knows already, in force.
func apply(ctx context.Context, client *hostclient.Client, row models.Sandbox) error {
	_, err := client.SetNetwork(ctx, row.ID, row.Network)
	return err
}

// noteNetwork adds to the audit log what came of putting the row's policy in force.
func (c *Controller) noteNetwork(ctx context.Context, by db.By, row models.Sandbox, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	outcome := "ok"
	if err != nil {
		outcome = string(models.CodeOf(err))
	}
	if err := c.Store.NoteNetwork(ctx, row, by, outcome); err != nil {
		c.Log.Error("outcome of a change of a network policy not in the audit log", "sandbox_id", row.ID, "op_id", by.Operation, "outcome", outcome, "error", err)
	}
}

func notInForce(row models.Sandbox, cause error) error {
	e := models.AsError(present(row.ID, cause))
	return models.Errorf(e.Code, "the network policy of %s is recorded (generation %d) and NOT in force yet: %s", row.ID, row.Network.Generation, e.Message).
		WithCause(cause).WithHint("until then the one before holds; the platform tries again by itself, and GET /v1/sandboxes/%s/network tells when it is in force", row.ID)
}

// Network is a sandbox with what its host tells of its network.
type Network struct {
	Sandbox models.Sandbox
	hostclient.Network
}

// InForce tells whether the policy that is wanted is in force.
func (n Network) InForce() bool { return n.Generation == n.Sandbox.Network.Generation }

// Network asks the host of a running or paused sandbox about its network.
func (c *Controller) Network(ctx context.Context, account id.Account, sb id.Sandbox) (Network, error) {
	row, err := c.Store.Sandbox(ctx, account, sb)
	if err != nil {
		return Network{}, err
	}
	if !networked(row) {
		return Network{}, notRunning(row)
	}
	client, err := c.Fleet.Client(row.Host)
	if err != nil {
		return Network{}, err
	}
	told, err := client.Network(ctx, sb)
	return Network{Sandbox: row, Network: told}, present(row.ID, err)
}
