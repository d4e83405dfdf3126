package journal

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var morning = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)

func at(second int) time.Time { return morning.Add(time.Duration(second) * time.Second) }

func TestEqualRefusalsAreCounted(t *testing.T) {
	j := New()
	to := netip.MustParseAddrPort("192.0.2.7:443")
	j.Add(models.NetworkRefusal{Last: at(1), Protocol: "tcp", To: to, Rule: "internet", Why: "off", Count: 1})
	j.Add(models.NetworkRefusal{Last: at(3), Protocol: "dns", Name: "a.example", Rule: "name_denied", Why: "denied", Count: 1})
	j.Add(models.NetworkRefusal{Last: at(2), Protocol: "tcp", To: to, Rule: "internet", Why: "off", Count: 4})
	j.Add(models.NetworkRefusal{Last: at(0), Protocol: "tcp", To: to, Rule: "denied", Why: "denied", Count: 1})
	want := models.NetworkRefusals{Items: []models.NetworkRefusal{
		{First: at(3), Last: at(3), Protocol: "dns", Name: "a.example", Rule: "name_denied", Why: "denied", Count: 1},
		{First: at(1), Last: at(2), Protocol: "tcp", To: to, Rule: "internet", Why: "off", Count: 5},
		{First: at(0), Last: at(0), Protocol: "tcp", To: to, Rule: "denied", Why: "denied", Count: 1},
	}}
	if diff := cmp.Diff(want, j.Refusals(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
}

// TestBound: whatever a guest asks for, the journal stays small and keeps what is new.
func TestBound(t *testing.T) {
	j := New()
	const extra = 50
	for i := range MaxEntries + extra {
		j.Add(models.NetworkRefusal{Last: at(i), Protocol: "dns", Name: fmt.Sprintf("n%d.example", i), Rule: "x", Count: 2})
	}
	got := j.Refusals()
	if len(got.Items) != MaxEntries || got.Forgotten != 2*extra {
		t.Errorf("%d entries are kept, %d forgotten", len(got.Items), got.Forgotten)
	}
	if first := got.Items[0].Name; first != fmt.Sprintf("n%d.example", MaxEntries+extra-1) {
		t.Errorf("the latest entry is of %s", first)
	}
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refusals.json")
	j, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("an empty journal was written")
	}
	j.Add(models.NetworkRefusal{Last: at(1), Protocol: "udp", To: netip.MustParseAddrPort("192.0.2.7:53"), Rule: "dns", Why: "w", Count: 3})
	j.Add(models.NetworkRefusal{Last: at(2), Protocol: "dns", Name: strings.Repeat(`\255`, 250), Rule: "name_denied", Count: 1})
	if err := j.Save(path); err != nil {
		t.Fatal(err)
	}
	again, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j.Refusals(), again.Refusals(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
	again.Add(models.NetworkRefusal{Last: at(5), Protocol: "udp", To: netip.MustParseAddrPort("192.0.2.7:53"), Rule: "dns", Count: 1})
	if got := again.Refusals().Items[0]; got.Count != 4 || got.First != at(1) {
		t.Errorf("counting does not go on: %+v", got)
	}
}

// TestBrokenFile: a journal that cannot be read is begun anew, and said to be.
func TestBrokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refusals.json")
	for name, text := range map[string]string{"half": `{"items":[{"Last":`, "another": `[]`, "huge": strings.Repeat(" ", maxFile+1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Load(path)
		if err == nil || len(j.Refusals().Items) != 0 {
			t.Errorf("%s: %v", name, err)
		}
		j.Add(models.NetworkRefusal{Last: at(1), Protocol: "udp", Count: 1})
		if err := j.Save(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
