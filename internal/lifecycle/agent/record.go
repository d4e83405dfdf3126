package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// record is the durable part of a sandbox: all that the next agent needs to take it
// over or to remove it. It lies in record.json in the sandbox's folder, which only
// root may enter, since it holds the guest's token.
type record struct {
	Sandbox   id.Sandbox    `json:"sandbox"`
	State     State         `json:"state"`
	Reason    string        `json:"reason,omitempty"`
	Template  string        `json:"template"`
	Size      models.Size   `json:"size"`
	Digest    string        `json:"digest,omitempty"` // of the template's disk
	Kernel    string        `json:"kernel,omitempty"` // SHA-256 of the one that it booted from
	Slot      int           `json:"slot"`             // of the network; -1 for none
	Owner     uint32        `json:"owner,omitempty"`  // user of the VMM; 0 for none of its own
	Token     string        `json:"token"`
	VM        *vm.Saved     `json:"vm,omitempty"`
	CreatedAt time.Time     `json:"created_at"`
	Steps     []models.Step `json:"steps,omitempty"`
	Envd      string        `json:"envd,omitempty"` // version
	Guest     string        `json:"guest,omitempty"`

	Pauses   int                 `json:"pauses,omitempty"`   // how many were begun
	Staged   string              `json:"staged,omitempty"`   // the snapshot that is being made, of a sandbox that is pausing
	Snapshot string              `json:"snapshot,omitempty"` // that it sleeps in, or was resumed from
	Resumed  *models.Certificate `json:"resumed,omitempty"`
	Verified time.Time           `json:"verified,omitzero"` // when the snapshot that it sleeps in was last read and found whole
	Damage   string              `json:"damage,omitempty"`  // of that snapshot

	Pooled bool    `json:"pooled,omitempty"` // it waits for a sandbox to be
	Stored *stored `json:"stored,omitempty"` // the snapshot of it that was stored last, or that it was fetched as

	Network *models.NetworkPolicy `json:"network,omitempty"` // nil in one by an agent that knew of none
}

// policy returns the network policy of the sandbox.
func (r record) policy() models.NetworkPolicy {
	if r.Network == nil {
		return models.DefaultNetwork()
	}
	return *r.Network
}

func recordPath(dir string) string { return filepath.Join(dir, "record.json") }

func (r record) write(dir string) error {
	if err := durable.WriteJSON(recordPath(dir), r, 0o600); err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Sandbox, err)
	}
	return nil
}

// note is write for a sandbox that is worth nothing yet: after a power cut, which its VM does not outlive, its folder is removed, whatever lies there.
func (r record) note(dir string) error {
	if err := durable.NoteJSON(recordPath(dir), r, 0o600); err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Sandbox, err)
	}
	return nil
}

// readRecord returns false for a folder without a record that can be read, which is
// what a crash in the very first or very last step leaves.
func readRecord(dir string) (record, bool, error) {
	var r record
	err := durable.ReadJSON(recordPath(dir), &r)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return record{}, false, nil
	case err != nil && !os.IsPermission(err):
		return record{}, false, fmt.Errorf("read the record in %s: %w", dir, err)
	}
	return r, err == nil, err
}
