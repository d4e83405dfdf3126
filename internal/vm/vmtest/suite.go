// Package vmtest is the suite that every VM driver passes.
//
// A driver's test calls Run from one of its tests and Main from TestMain. The guest of the suite is the program in
// the folder guest: a tiny PID 1 that answers, misbehaves and ends on request, so that the suite depends on no
// real envd. Nothing in it depends on how fast the machine is: a wait ends when what it waits
// for happens, or fails after a limit far beyond what any machine needs.
package vmtest

import (
	"cmp"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// defaultLimit bounds every single wait of the suite. It is there for what hangs: on a busy machine a flood of the console takes minutes.
const defaultLimit = 6 * time.Minute

// Subject is a driver under test.
type Subject struct {
	Driver vm.Driver
	Kernel string // a guest kernel that boots under Driver
	// NIC says that guests may be given a network device, on a TAP device that the suite makes: the
	// test must run as root and in a network namespace of its own (Main).
	NIC bool
	// Jailed says that VMs get a Spec.Jail, for which the test must run as root. Without it the driver must allow VMs that have none.
	Jailed bool
	// Unfiltered says that the VMM may make any system call, as one does that was built without a filter.
	Unfiltered bool
	// Simulated says that no VMM runs, but a program that plays one, and confines itself only as far as a test program can.
	Simulated bool
	// Skip names the cases that the driver cannot run, each with the reason, which is logged. The
	// names are those of the subtests.
	Skip map[string]string
	// Limit bounds every single wait, where two minutes may be too short: 0 for two minutes.
	Limit time.Duration
}

func (s Subject) limit() time.Duration { return cmp.Or(s.Limit, defaultLimit) }

// Run runs every case against subjects of its own. subject is called once for each, also in other
// processes: copies of the test binary that play an agent before or after a restart.
func Run(t *testing.T, subject func(t *testing.T) Subject) {
	if isChild() {
		runChild(t, subject(t))
		return
	}
	image := buildGuest(t)
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			s := subject(t)
			if why, skip := s.Skip[c.name]; skip {
				t.Skip(why)
			}
			c.run(newWorld(t, s, image))
		})
	}
}

type testCase struct {
	name string
	run  func(*world)
}

func cases() []testCase {
	return []testCase{
		{"boots", boots},
		{"two_at_once", twoAtOnce},
		{"large_data", largeData},
		{"bulk_data", bulkData},
		{"network", network},
		{"refused_spec", refusedSpec},
		{"unbootable", unbootable},
		{"start_cancelled", startCancelled},
		{"stop_orderly", stopOrderly},
		{"stop_ignored", stopIgnored},
		{"stop_unreachable", stopUnreachable},
		{"kill_idempotent", killIdempotent},
		{"killed_from_outside", killedFromOutside},
		{"guest_ends_itself", guestEndsItself},
		{"dial_waits", dialWaits},
		{"dial_cancelled", dialCancelled},
		{"dial_dead", dialDead},
		{"dial_at_once", dialAtOnce},
		{"console_flood", consoleFlood},
		{"console_flood_unattended", consoleFloodUnattended},
		{"release_and_adopt", releaseAndAdopt},
		{"cut_and_redial", cutAndRedial},
		{"adopt_after_agent_death", adoptAfterAgentDeath},
		{"adopt_by_another_agent", adoptByAnotherAgent},
		{"adopt_gone", adoptGone},
		{"adopt_impostor", adoptImpostor},
		{"pause_and_resume", pauseAndResume},
		{"snapshot_and_restore", snapshotAndRestore},
		{"snapshot_of_clones", snapshotOfClones},
		{"snapshot_under_traffic", snapshotUnderTraffic},
		{"snapshot_network", snapshotNetwork},
		{"shared_memory", sharedMemory},
		{"snapshot_fails", snapshotFails},
		{"restore_fails", restoreFails},
		{"lazy_restore", lazyRestore},
		{"lazy_agent_death", lazyAgentDeath},
		{"lazy_damage", lazyDamage},
		{"lazy_pager_death", lazyPagerDeath},
		{"jail_privileges", jailPrivileges},
		{"jail_view", jailView},
		{"jail_neighbours", jailNeighbours},
		{"jail_found_unrecorded", jailFoundUnrecorded},
	}
}
