package models

import (
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// State is where a sandbox is in its life. The values equal those of the Postgres
// type sandbox_state and of the API's "state" field.
type State string

// The states that are built so far. Those that end in -ing, but for Running, are transitional: each
// has a deadline after which the sandbox converges to another state.
const (
	Pending  State = "pending"
	Starting State = "starting"
	Running  State = "running"
	Pausing  State = "pausing"
	Paused   State = "paused" // its memory lies on its host's disk
	Resuming State = "resuming"
	Stopping State = "stopping"
	Stopped  State = "stopped"
	Failed   State = "error"

	Hibernating State = "hibernating" // it sleeps on its host, and is being stored
	Hibernated  State = "hibernated"  // it is in the object store, and on no host
)

// Sandbox is a sandbox as the control plane knows it.
type Sandbox struct {
	ID         id.Sandbox
	Account    id.Account
	Host       id.Host // empty until placed, and while it is hibernated
	Name       string
	Template   string
	Size       Size
	Metadata   map[string]string
	State      State
	Generation int64  // grows by one with every change of state
	Reason     string // why it is in this state; safe for users
	Steps      []Step // what its creation spent its time on
	CreatedAt  time.Time
	StartedAt  time.Time // zero until it first ran
	UpdatedAt  time.Time
	Deadline   time.Time     // of a transitional state; zero otherwise
	Network    NetworkPolicy // that is wanted; in force once its host says so
	AutoResume bool          // whether a request that needs its guest resumes it
	Parent     id.Sandbox    // that it was forked from; empty for none
	Snapshot   id.Snapshot   // that it was created from, which may be gone; empty for none
	Resumed    *Certificate  // of its last resume, or of its making from a golden snapshot; nil before
	Archive    *Archive      // of its last hibernation; nil before
	Cold       bool          // it is what lies in its archive: it is hibernated, or on its way out

	Lifecycle   Lifecycle
	UsedUntil   time.Time // while it runs: it counts as used until then
	AsleepSince time.Time // or failed since; zero while it is neither
	TimeoutAt   time.Time // zero for none
	VerifiedAt  time.Time // when the snapshot that it sleeps in was last read and found whole; zero before
	Damage      string    // of that snapshot; empty where nothing is known
}

// Archive is a snapshot in the object store, and what a host needs to restore it.
type Archive struct {
	Key            string
	TemplateDigest string
	Driver         string
	DriverVersion  string
	Accelerator    string
	SentBytes      int64 // to the store, for it
}

// Certificate says what a guest renewed when it was resumed, in order: its clock, its randomness, its token and so on.
type Certificate struct {
	At    time.Time
	Steps []CertificateStep
}

// CertificateStep is one thing that was renewed, or a hook that was run.
type CertificateStep struct {
	Name     string
	Kept     bool   // nothing had to be renewed
	Output   string // of a hook, the beginning
	Duration time.Duration
}

// Size is what a sandbox takes of its host.
type Size struct {
	VCPUs     int
	MemoryMiB int
	DiskMiB   int // 0 until known: the template's own size
}

// Step is one part of an operation and the time it took.
type Step struct {
	Name     string
	Duration time.Duration
}

// Limits of a sandbox's size. The disk's lower bound is its template's size.
const (
	MinVCPUs     = 1
	MaxVCPUs     = 32
	MinMemoryMiB = 128
	MaxMemoryMiB = 65536
	MaxDiskMiB   = 1 << 20
)

// MaxForks is how many children one fork makes at most.
const MaxForks = 16

// CheckSize returns an Invalid error that names the first field out of range.
func CheckSize(s Size) error {
	switch {
	case s.VCPUs < MinVCPUs || s.VCPUs > MaxVCPUs:
		return Errorf(Invalid, "vcpus must be between %d and %d, not %d", MinVCPUs, MaxVCPUs, s.VCPUs)
	case s.MemoryMiB < MinMemoryMiB || s.MemoryMiB > MaxMemoryMiB:
		return Errorf(Invalid, "memory_mib must be between %d and %d, not %d", MinMemoryMiB, MaxMemoryMiB, s.MemoryMiB)
	case s.DiskMiB < 0 || s.DiskMiB > MaxDiskMiB:
		return Errorf(Invalid, "disk_mib must be between 0 (the template's size) and %d, not %d", MaxDiskMiB, s.DiskMiB)
	}
	return nil
}
