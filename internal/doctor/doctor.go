// Package doctor examines whether a machine can run sandboxes, and how well. It changes
// nothing on the machine, apart from two small temporary files in the data folder.
//
// Its own checks try what a sandbox needs. What a host is set to is the table of package hostsetup, which
// `host-agent setup` applies and doctor reads.
package doctor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/hostsetup"
	"github.com/wrenn-sandbox/wrenn/internal/vm/kvm"
)

// Status says how a finding matters.
type Status string

// The statuses of findings.
const (
	OK   Status = "ok"
	Warn Status = "warn" // sandboxes run, but slower, less isolated or not for long
	Fail Status = "fail" // no sandbox can run
)

// Finding is the outcome of one check.
type Finding struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Found  string `json:"found"`         // in words
	Fix    string `json:"fix,omitempty"` // what to do about it, unless it is ok
}

// Options say what is examined.
type Options struct {
	Data   string // the data folder, which need not exist yet
	Kernel string // the guest kernel
	Images string // the folder of template images
	Subnet string // of the guests, such as 10.0.0.0/16

	Volume    string // "off" where the operator wants none with reflinks
	Jail      string // "off" where the operator wants no jails
	OwnerBase uint32 // first of the users of VMMs

	Objects       func() (config.Objects, error) // the object store, as the host agent would read it
	SeccompFilter string                         // a file, for a Firecracker that was built without a filter
}

// checkTimeout bounds each check that asks something outside this process.
const checkTimeout = 10 * time.Second

// machine is what the checks look at. Tests put a folder in place of the root and answers in place of
// the probes.
type machine struct {
	Options
	root       string
	euid       int
	lookPath   func(program string) (string, error)
	output     func(ctx context.Context, program string, args ...string) (string, error)
	probeKVM   func(ctx context.Context) (usable bool, reason string)
	reflinks   func(dir string) error
	openTUN    func(path string) error
	chains     func(ctx context.Context) ([]chain, error)
	filesystem func(dir string) (space, error)
	openFiles  func() (soft, hard uint64, err error)
	setup      func(ctx context.Context) ([]hostsetup.Result, error)
}

// check is one look at the machine.
type check func(ctx context.Context, m *machine) Finding

// checks in the order in which they are reported.
var checks = []check{
	checkRoot, checkKernel, checkKVM, checkFirecracker, checkQEMU, checkGuestKernel, checkImages, checkReflinks, checkGolden, checkPool, checkObjects, checkLoop, checkDisk,
	checkMemory, checkTUN, checkNftables, checkForwardPolicy, checkRoutes, checkJail, checkUserfaultfd, checkOpenFiles, checkDatabases,
}

// Examine runs all checks and returns a finding of each.
func Examine(ctx context.Context, opts Options) []Finding {
	return examine(ctx, &machine{
		Options: opts, root: "/", euid: os.Geteuid(), lookPath: exec.LookPath, output: output,
		probeKVM: func(ctx context.Context) (bool, string) {
			v := kvm.Probe(ctx, kvm.Device)
			return v.Usable, v.Reason
		},
		reflinks: probeReflinks, openTUN: openTUN, chains: listChains, filesystem: statSpace, openFiles: limitOfOpenFiles,
		setup: func(ctx context.Context) ([]hostsetup.Result, error) { return checkSetup(ctx, opts) },
	})
}

func examine(ctx context.Context, m *machine) []Finding {
	var all []Finding
	for _, c := range checks {
		all = append(all, c(ctx, m))
	}
	// Either VMM will do: only the lack of both is a failure.
	all = append(all, checkVMM(all))
	return append(all, findingsOfSetup(ctx, m)...)
}

// Usable tells whether sandboxes can run.
func Usable(findings []Finding) bool {
	for _, f := range findings {
		if f.Status == Fail {
			return false
		}
	}
	return true
}

func ok(name, found string) Finding { return Finding{Name: name, Status: OK, Found: found} }
func warn(name, found, fix string) Finding {
	return Finding{Name: name, Status: Warn, Found: found, Fix: fix}
}
func fail(name, found, fix string) Finding {
	return Finding{Name: name, Status: Fail, Found: found, Fix: fix}
}

// path is a path of the machine, below the root of tests.
func (m *machine) path(elements ...string) string {
	return filepath.Join(append([]string{m.root}, elements...)...)
}

// read returns the text of a file without the blanks around it, "" if it cannot be read.
func (m *machine) read(path string) string {
	b, err := os.ReadFile(m.path(path))
	if err != nil {
		return ""
	}
	return trim(string(b))
}

func (m *machine) exists(path string) bool {
	_, err := os.Stat(m.path(path))
	return err == nil
}

// existing is dir, or the nearest folder above it that exists.
func existing(dir string) string {
	for {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
