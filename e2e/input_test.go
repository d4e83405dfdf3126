package e2e

import (
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// TestBadInputThroughAllLayers: what only the host or the guest can refuse comes back with the right
// code and words. What the API refuses by itself is tested beside it.
func TestBadInputThroughAllLayers(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	ctx := p.context()
	exec := func(req wrenn.ExecRequest) func() error {
		return func() error { _, err := p.client.Exec(ctx, id, req); return err }
	}
	create := func(req wrenn.CreateSandboxRequest) func() error {
		return func() error { _, err := p.client.CreateSandbox(ctx, req); return err }
	}
	write := func(path string) func() error {
		return func() error { _, err := p.client.WriteFile(ctx, id, path, strings.NewReader("x")); return err }
	}
	read := func(path string) func() error {
		return func() error { _, err := p.client.ReadFile(ctx, id, path); return err }
	}
	for name, c := range map[string]struct {
		call func() error
		code wrenn.Code
		text string
	}{
		"unknown template":      {create(wrenn.CreateSandboxRequest{Template: "nope"}), "not_found", "nope"},
		"disk below template":   {create(wrenn.CreateSandboxRequest{Template: "minimal", DiskMiB: 1}), "invalid", "disk"},
		"more memory than host": {create(wrenn.CreateSandboxRequest{Template: "minimal", MemoryMiB: 65536, VCPUs: 1}), "exhausted", "memory"},
		"unknown command":       {exec(wrenn.ExecRequest{Cmd: "no-such-program"}), "invalid", "no-such-program"},
		"unknown user":          {exec(wrenn.ExecRequest{Shell: "true", User: "nobody-here"}), "invalid", "nobody-here"},
		"missing folder":        {exec(wrenn.ExecRequest{Shell: "true", Cwd: "/no/such"}), "invalid", "/no/such"},
		"missing file":          {read("/home/user/none"), "not_found", "none"},
		"folder read as file":   {read("/home"), "invalid", "/home"},
		"write where forbidden": {write("/sys/nope"), "forbidden", "/sys/nope"},
		"write onto a folder":   {write("/home/user"), "invalid", "/home/user"},
	} {
		err := c.call()
		if wrenn.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %q: %v; want %q and the word %q", name, wrenn.CodeOf(err), err, c.code, c.text)
		}
	}
	p.shell(id, "true") // none of it did harm
	p.destroy(id)
}
