package models

import (
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// SnapshotState is where a snapshot is in its life. The values equal those of the database and of the API.
type SnapshotState string

// The states of a snapshot. What is removed has no state any more.
const (
	SnapshotCreating SnapshotState = "creating"
	SnapshotReady    SnapshotState = "ready"
	SnapshotDeleting SnapshotState = "deleting"
	SnapshotFailed   SnapshotState = "error" // it is damaged or lost
)

// Snapshot is what a sandbox was at one instant, kept on the disk of its host for sandboxes to be created from it.
type Snapshot struct {
	ID        id.Snapshot
	Account   id.Account
	Host      id.Host
	Sandbox   id.Sandbox  // of which it is; that may be stopped
	Parent    id.Snapshot // the one before it, which may be gone; empty for none
	Name      string
	Template  string
	Size      Size
	Network   NetworkPolicy // of its sandbox then
	State     SnapshotState
	Reason    string // why it is in state error
	Bytes     int64  // that it takes of the disk at most; 0 until it is ready
	CreatedAt time.Time
	UpdatedAt time.Time
}
