package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// hostParts is what a host of a cluster has of sandboxes.
type hostParts struct {
	id    string
	data  string
	netns string
	first uint32 // user of its VMMs
	count uint32
}

func hostsOf(t *testing.T, c *cluster) (all []*hostParts) {
	t.Helper()
	for i := range hostsOfCluster {
		name, err := c.HostID(i)
		if err != nil {
			t.Fatal(err)
		}
		h := &hostParts{id: name, data: c.HostData(i), netns: c.HostNetns(i)}
		h.first, h.count = c.HostUsers(i)
		all = append(all, h)
	}
	return all
}

// vmm is a process that belongs to a sandbox, or to none if its name is empty.
type vmm struct {
	pid     int
	sandbox string
}

func (h *hostParts) vmms() (all []vmm) {
	for _, found := range processesOf(h.first, h.count) {
		pid, err := strconv.Atoi(strings.TrimPrefix(found, "process "))
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && len(text) > 0 {
			all = append(all, vmm{pid, sandboxForm.FindString(string(text))})
		}
	}
	return all
}

// taps are the sandboxes that have one.
func (h *hostParts) taps() (all []string, err error) {
	err = netns.Do(h.netns, func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if sandbox, is := strings.CutPrefix(link.Name, "tap-"); is && strings.HasPrefix(sandbox, "sb-") {
				all = append(all, sandbox)
			}
		}
		return err
	})
	return all, err
}

func (h *hostParts) found(pattern string) (all []string) {
	for _, below := range []string{"", "volume"} {
		paths, _ := filepath.Glob(filepath.Join(h.data, below, pattern)) // the pattern is well formed
		for _, path := range paths {
			all = append(all, filepath.Base(path))
		}
	}
	return all
}

// held is what a host has of a sandbox.
type held struct {
	folder, tap bool
	vmms        int
}

func (h held) String() string {
	return fmt.Sprintf("a folder: %v, a TAP: %v, VMMs: %d", h.folder, h.tap, h.vmms)
}

// holds is what the host has, by sandbox.
func (h *hostParts) holds() (map[string]held, error) {
	all := map[string]held{}
	for _, name := range h.found("sandboxes/sb-*") {
		one := all[name]
		one.folder = true
		all[name] = one
	}
	taps, err := h.taps()
	for _, name := range taps {
		one := all[name]
		one.tap = true
		all[name] = one
	}
	for _, v := range h.vmms() {
		one := all[v.sandbox]
		one.vmms++
		all[v.sandbox] = one
	}
	return all, err
}

// strays are what is there only while something is under way.
func (h *hostParts) strays() (all []string) {
	for _, pattern := range []string{"sandboxes/.*", "forks/*", "forks/.*", "intents/*", "snapshots/.*"} {
		for _, name := range h.found(pattern) {
			all = append(all, filepath.Join(filepath.Dir(pattern), name))
		}
	}
	return append(all, slices.DeleteFunc(mountsBelow(h.data), func(found string) bool { return found == "mount "+filepath.Join(h.data, "volume") })...)
}

// all is what a host has on which there is nothing.
func (h *hostParts) all() []string {
	left := append(h.strays(), h.found("snapshots/*")...)
	holds, err := h.holds()
	if err != nil {
		left = append(left, err.Error())
	}
	for name, held := range holds {
		left = append(left, name+": "+held.String())
	}
	return left
}
