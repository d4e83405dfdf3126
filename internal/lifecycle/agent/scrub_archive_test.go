package agent

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestVerifyArchive: what is stored is read as a whole, past everything that is on the host, and what is wrong with it is said; a store that does not answer says nothing about it.
func TestVerifyArchive(t *testing.T) {
	r := newRig(t)
	r.driver.memory = "its memory"
	_, key := r.hibernated("kept")
	if _, err := r.agent.VerifyArchive(t.Context(), key); models.CodeOf(err) != models.Precondition {
		t.Errorf("by a host that is not to read: %v", err)
	}
	r.close()
	r.scrub = 64
	r.open()
	is := func(want string) {
		t.Helper()
		if damage, err := r.agent.VerifyArchive(t.Context(), key); err != nil || !strings.Contains(damage, want) || (damage == "") != (want == "") {
			t.Errorf("it is damaged by %q, want %q, %v", damage, want, err)
		}
	}
	is("")
	manifest := r.objects.files(t, "manifests/"+key)[0]
	for _, chunk := range r.objects.files(t, "chunks/*/*") {
		flip(t, chunk)
		is("is damaged")
		flip(t, chunk)
		if err := os.Rename(chunk, chunk+"x"); err != nil {
			t.Fatal(err)
		}
		is("is missing from the object store")
		if err := os.Rename(chunk+"x", chunk); err != nil {
			t.Fatal(err)
		}
	}
	is("")
	r.objects.on(func(context.Context, string, string) error {
		return models.Errorf(models.Unavailable, "the object store cannot be reached")
	})
	if damage, err := r.agent.VerifyArchive(t.Context(), key); damage != "" || models.CodeOf(err) != models.Unavailable {
		t.Errorf("of a store that is away: %q, %v", damage, err)
	}
	r.objects.on(nil)
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	is("there is no stored snapshot")
}
