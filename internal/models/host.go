package models

// HostState is what may be expected of a host.
type HostState string

// The states of a host. What it has it keeps in all of them.
const (
	HostReady       HostState = "ready"       // it takes new sandboxes
	HostQuarantined HostState = "quarantined" // its creates have failed: it takes none until a probe succeeds
	HostDraining    HostState = "draining"    // an operator has said so: it takes none, and those that sleep leave it
	HostDown        HostState = "down"        // it cannot be reached
)
