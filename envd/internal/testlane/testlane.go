// Package testlane decides what a test does when the machine lacks what it needs.
package testlane

import (
	"os"
	"testing"
)

// RequireAll names the environment variable that makes every lane mandatory; CI sets it to 1.
const RequireAll = "WRENN_REQUIRE_ALL"

// Missing ends the test because what is not to be had on this machine: a skip with one
// line for a developer, a failure where RequireAll is set.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(RequireAll) == "1" {
		t.Fatalf("%s, and %s=1 makes every lane mandatory", what, RequireAll)
	}
	t.Skipf("skipped: %s", what)
}

// NeedRoot ends the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root (network devices, mounts, virtual machines)")
	}
}
