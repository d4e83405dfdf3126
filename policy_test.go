// Package wrenn holds the rules that the whole tree obeys, as tests.
package wrenn

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/wrenn-sandbox/wrenn/"

// bans says what a package, and everything it imports, must never link, and why.
var bans = []struct {
	pkg    string   // below the module
	never  []string // import path prefixes
	reason string
}{
	{"cmd/control-plane", []string{
		"github.com/vishvananda/", "github.com/google/nftables", "github.com/miekg/dns",
		module + "internal/vm/qemu", module + "internal/vm/firecracker", module + "internal/network", module + "internal/filesystem",
	}, "the control plane runs unprivileged on any machine: what touches a host belongs to the agent"},
	{"cmd/host-agent", []string{
		"github.com/jackc/", "github.com/go-chi/", "github.com/redis/", module + "db", module + "internal/api",
	}, "a host knows no database: a stolen host must not hold the way to it"},
	{"internal/models", []string{"google.golang.org/", "github.com/jackc/", "net/http"},
		"the nouns carry no storage or wire format"},
	{"sdk/go", []string{module + "internal", "google.golang.org/", "github.com/"},
		"the SDK is the standard library, and a WebSocket client that needs nothing else"},
	{"envd", []string{module + "internal", module + "db", "github.com/vishvananda/", "google.golang.org/", "connectrpc.com/"},
		"envd is in every guest: it is small, and shares only the protocol with the rest"},
	{"envd", []string{"net/http", "crypto/tls"},
		"their pages would be in every guest's memory: docs/adr/0006-envd-has-its-own-http-server.md"},
}

// webSocket imports the standard library alone, so that the SDK may.
const webSocket = "github.com/coder/websocket"

// layers, from the top down: a package may import packages of lower layers, not of higher ones nor of
// its own. What is not listed is checked by bans alone.
var layers = [][]string{
	{"cmd/"},
	{"internal/api", "internal/hostapi"},
	{"internal/lifecycle/controller", "internal/lifecycle/agent", "internal/doctor"},
	{"internal/scheduler", "internal/auth", "internal/lago", "internal/eventfeed", "internal/webhook", "internal/hostclient", "internal/portproxy", "internal/hostsetup", "internal/snapshot"},
	{"internal/chunk"},
	{"internal/network", "internal/filesystem", "internal/envdclient", "internal/tunnel", "internal/mtls", "internal/vm", "internal/object", "db"},
	{"internal/lifecycle", "internal/usage", "internal/grpcerr", "internal/durable", "internal/clone", "internal/cgroup", "internal/metrics"},
	{"internal/models", "internal/meminfo"},
	{"internal/id"},
}

type goPackage struct {
	ImportPath string
	Dir        string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Dir,Imports,Deps,GoFiles"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("read go list: %v", err)
		}
		all = append(all, p)
	}
	return all
}

func everyPackage(t *testing.T) []goPackage {
	return list(t, "./...", module+"proto/...", module+"envd/...", module+"sdk/go/...")
}

func TestForbiddenDependencies(t *testing.T) {
	for _, ban := range bans {
		for _, pkg := range list(t, module+ban.pkg) {
			for _, dep := range pkg.Deps {
				for _, never := range ban.never {
					if strings.HasPrefix(dep, never) && !strings.HasPrefix(dep, module+ban.pkg) && (ban.pkg != "sdk/go" || !strings.HasPrefix(dep, webSocket)) {
						t.Errorf("%s links %s: %s", ban.pkg, dep, ban.reason)
					}
				}
			}
		}
	}
}

func TestNothingImportsEnvd(t *testing.T) {
	for _, pkg := range everyPackage(t) {
		for _, dep := range pkg.Imports {
			if strings.HasPrefix(dep, module+"envd/") && !strings.HasPrefix(pkg.ImportPath, module+"envd") {
				t.Errorf("%s imports %s: envd is a program of its own, imported by nothing", pkg.ImportPath, dep)
			}
		}
	}
}

func TestImportsRunDownward(t *testing.T) {
	for _, pkg := range list(t, "./...") {
		from := layerOf(pkg.ImportPath)
		for _, dep := range pkg.Imports {
			to := layerOf(dep)
			switch {
			case from < 0 || to < 0 || sameTree(pkg.ImportPath, dep):
			case to < from:
				t.Errorf("%s imports %s, which is above it", pkg.ImportPath, dep)
			case to == from:
				t.Errorf("%s imports %s of its own layer: something above composes them", pkg.ImportPath, dep)
			}
		}
	}
}

// TestOnlyMetricsKnowsPrometheus: what counts is the same everywhere, and another library is one package's work.
func TestOnlyMetricsKnowsPrometheus(t *testing.T) {
	for _, pkg := range everyPackage(t) {
		for _, dep := range pkg.Imports {
			if strings.HasPrefix(dep, "github.com/prometheus/") && pkg.ImportPath != module+"internal/metrics" {
				t.Errorf("%s imports %s: internal/metrics does that for all", pkg.ImportPath, dep)
			}
		}
	}
}

// layerOf returns the index of the layer whose longest name fits path, or -1.
func layerOf(path string) int {
	rel, ok := strings.CutPrefix(path, module)
	best, layer := "", -1
	for i, names := range layers {
		for _, name := range names {
			if ok && (rel == name || strings.HasPrefix(rel, strings.TrimSuffix(name, "/")+"/")) && len(name) > len(best) {
				best, layer = name, i
			}
		}
	}
	return layer
}

// sameTree reports whether one is below the other, or both are below the same package of internal.
func sameTree(a, b string) bool {
	if strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") {
		return true
	}
	first := func(path string) string {
		parts := strings.SplitN(strings.TrimPrefix(path, module), "/", 3)
		return strings.Join(parts[:min(2, len(parts))], "/")
	}
	return first(a) == first(b)
}

// TestPackageComments: every package says in its first sentence what it is.
func TestPackageComments(t *testing.T) {
	for _, pkg := range everyPackage(t) {
		if generated(pkg.ImportPath) || len(pkg.GoFiles) == 0 {
			continue
		}
		documented := slices.ContainsFunc(pkg.GoFiles, func(name string) bool {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			return err == nil && f.Doc != nil
		})
		if !documented {
			t.Errorf("%s has no package comment", pkg.ImportPath)
		}
	}
}

func generated(path string) bool {
	return strings.Contains(path, "/proto/gen/") || strings.HasSuffix(path, "/db/dbgen")
}

// maxLines is the longest that a file written by hand may grow.
const maxLines = 800

func TestFilesStayShort(t *testing.T) {
	for _, name := range trackedGoFiles(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > maxLines {
			t.Errorf("%s has %d lines: split it by topic (limit %d)", name, n, maxLines)
		}
	}
}

func trackedGoFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		made := strings.HasPrefix(path, "proto/gen") || strings.HasPrefix(path, "db/dbgen")
		if d.IsDir() && (made || strings.HasPrefix(d.Name(), ".") && path != "." || path == "build") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
