package doctor

import (
	"slices"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/hostsetup"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// TestSetupIsReadFromItsTable: what doctor says of the set-up of this machine is what `host-agent setup --check` says, item by item.
func TestSetupIsReadFromItsTable(t *testing.T) {
	testlane.NeedRoot(t)
	data := t.TempDir()
	for setting, volume := range map[string]bool{"auto": true, "off": false} {
		s, err := hostsetup.Open(hostsetup.Options{Data: data, Volume: volume})
		if err != nil {
			t.Fatal(err)
		}
		results, err := s.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		opts := Options{Data: data, Volume: setting, Kernel: "/proc/self/exe", Subnet: "10.0.0.0/16", Objects: inFolder(data)}
		findings := Examine(t.Context(), opts)
		for _, r := range results {
			if r.Optional != "" && r.Skipped != "" {
				continue
			}
			if want := findingOf(r); !slices.Contains(findings, want) {
				t.Errorf("volume %s: doctor does not say %+v", setting, want)
			}
			if r.Name == "volume" && !volume && r.Skipped == "" {
				t.Errorf("a volume that is switched off: %+v", r)
			}
		}
	}
}
