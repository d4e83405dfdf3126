package doctor

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/hostsetup"
)

const setupFix = "make setup-host (host-agent setup) does it, and takes it back with --undo"

func checkSetup(ctx context.Context, opts Options) ([]hostsetup.Result, error) {
	data, err := filepath.Abs(opts.Data)
	if err != nil {
		return nil, err
	}
	s, err := hostsetup.Open(hostsetup.Options{Data: data, Volume: opts.Volume != "off", SeccompFilter: opts.SeccompFilter})
	if err != nil {
		return nil, err
	}
	return s.Check(ctx)
}

// findingsOfSetup is a finding of each item of the host's set-up, but for the optional ones that nobody asked for.
func findingsOfSetup(ctx context.Context, m *machine) []Finding {
	results, err := m.setup(ctx)
	if err != nil {
		return []Finding{warn("setup", err.Error(), "see host-agent setup --check")}
	}
	var all []Finding
	for _, r := range results {
		if r.Optional == "" || r.Skipped == "" {
			all = append(all, findingOf(r))
		}
	}
	return all
}

// findingOf makes no more than a warning of an item: sandboxes run without any of them.
func findingOf(r hostsetup.Result) Finding {
	name := "setup " + r.Name
	switch {
	case r.Skipped != "":
		return ok(name, r.Skipped)
	case r.Err != nil:
		return warn(name, r.Err.Error(), "see host-agent setup --check")
	case r.Fix != "":
		return warn(name, r.Found, r.Fix)
	case len(r.Steps) > 0:
		return warn(name, differences(r.Steps), setupFix)
	case r.Found != "":
		return ok(name, r.Found)
	}
	return ok(name, r.What)
}

// differences names the first one: host-agent setup --check lists them all.
func differences(steps []hostsetup.Step) string {
	text := fmt.Sprintf("%s is %s, not %s", steps[0].What, steps[0].Before, steps[0].After)
	if more := len(steps) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}
