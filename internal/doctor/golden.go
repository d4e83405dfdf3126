package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// checkGolden lists what sandboxes are made from without booting. Whether one still fits, the host agent finds out.
func checkGolden(_ context.Context, m *machine) Finding {
	const name = "golden snapshots"
	manifests, err := filepath.Glob(filepath.Join(m.dataFolder(), "golden", "golden-*", "manifest.json"))
	var found, bad []string
	for _, path := range manifests {
		what, readErr := readGolden(path)
		if readErr != nil {
			bad = append(bad, readErr.Error())
		} else {
			found = append(found, what)
		}
	}
	slices.Sort(found)
	switch {
	case err != nil || len(bad) > 0:
		return warn(name, strings.Join(bad, "; "), "restart the host agent, which removes those that are damaged")
	case len(found) == 0:
		return ok(name, "none yet: the first sandbox of each template and size boots, and one is made of it")
	}
	return ok(name, strings.Join(found, ", "))
}

func readGolden(manifest string) (string, error) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return "", err
	}
	var s snapshot.Manifest
	if err := json.Unmarshal(text, &s); err != nil {
		return "", fmt.Errorf("%s is no manifest: %w", manifest, err)
	}
	return fmt.Sprintf("%s (%d vCPU, %d MiB, %s)", s.Template.Name, s.Machine.VCPUs, s.Machine.MemoryMiB, s.CreatedAt.Format("2006-01-02 15:04")), nil
}
