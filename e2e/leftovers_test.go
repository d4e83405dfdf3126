package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// leftovers lists what the platform has on the machine that belongs to sandboxes: processes,
// TAP devices, folders; and, once it is purged, mounts. Empty means nothing.
func (p *platform) leftovers() string {
	var found []string
	found = append(found, p.processes()...)
	found = append(found, p.devices()...)
	for _, pattern := range []string{"data/sandboxes/*", "data/volume/sandboxes/*"} {
		dirs, _ := filepath.Glob(filepath.Join(p.dir, pattern)) // the pattern is well formed
		found = append(found, dirs...)
	}
	if p.agent == nil || p.ended() {
		found = append(found, p.mounts()...)
	}
	return strings.Join(found, "\n")
}

func (p *platform) ended() bool {
	select {
	case <-p.agent.done:
		return true
	default:
		return false
	}
}

// users is how many users of VMMs a platform has at most: one for each /30 of its /16.
const users = 1 << 14

// ownUsers returns the first of the users that the VMMs of one platform alone run as.
func ownUsers() uint32 { return 1 << 20 * (1 + rand.Uint32N(1000)) }

// processes lists the VMMs of this platform, which it has users of its own for.
func (p *platform) processes() []string { return processesOf(p.users, users) }

// processesOf lists the processes of users from the first on.
func processesOf(first, count uint32) []string {
	tasks, _ := filepath.Glob("/proc/[0-9]*/status") // the pattern is well formed
	var found []string
	for _, path := range tasks {
		status, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(status), "\nState:\tZ") { // it has ended
			continue
		}
		var user uint32
		_, line, _ := strings.Cut(string(status), "\nUid:")
		if _, err := fmt.Sscan(line, &user); err == nil && user >= first && user < first+count {
			found = append(found, "process "+filepath.Base(filepath.Dir(path)))
		}
	}
	return found
}

// devices lists the TAPs of sandboxes; when it is purged, those too that the agent makes ahead.
func (p *platform) devices() []string {
	var found []string
	prefix := "tap-sb-"
	if p.agent == nil || p.ended() {
		prefix = "tap-"
	}
	err := netns.Do(p.netns, func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if strings.HasPrefix(link.Name, prefix) {
				found = append(found, "device "+link.Name)
			}
		}
		return err
	})
	if err != nil {
		found = append(found, fmt.Sprintf("devices unknown: %v", err))
	}
	return found
}

func (p *platform) mounts() []string {
	return slices.DeleteFunc(mountsBelow(p.dir), func(found string) bool { return found == "mount "+p.netns })
}

func mountsBelow(dir string) []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir) {
			found = append(found, "mount "+at)
		}
	}
	return found
}
