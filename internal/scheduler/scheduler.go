// Package scheduler decides where a new sandbox goes. It is a pure function over views of
// the hosts; who calls it makes sure that no two decisions use the same room.
package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Host is a host as seen at the moment of the decision.
type Host struct {
	ID        id.Host
	Reachable bool
	Capacity  Room // what it has
	Allotted  Room // what its sandboxes take of it, their VMMs' overhead included
	// OverheadMiB is what each sandbox takes of the memory beside its own: its VMM's.
	OverheadMiB int64
	Templates   []Template
	VMM         VMM
	Archive     bool // it has an object store
}

// Room is an amount of what sandboxes take.
type Room struct {
	VCPUs, MemoryMiB, DiskMiB int64
}

// Template is an image that a host has.
type Template struct {
	Name    string
	Digest  string
	Default models.Size // what a sandbox takes unless it asks for another size; DiskMiB is also the least
}

// Request is what a sandbox asks for. Zero sizes mean the template's default.
type Request struct {
	Template string
	Size     models.Size
}

// Placement is the decision.
type Placement struct {
	Host id.Host
	Size models.Size
}

// Overcommit is how many times a host's capacity may be allotted: guests seldom use all
// they were given. 1 for never more than there is.
type Overcommit struct {
	VCPU, Memory, Disk float64
}

// DefaultOvercommit lets 16 sandboxes share a CPU, as most wait for input most of the time;
// memory is never promised twice; disks are clones that take only what is written to them.
var DefaultOvercommit = Overcommit{VCPU: 16, Memory: 1, Disk: 4}

// Defaults of a sandbox's size where neither the request nor the template says anything.
const (
	DefaultVCPUs     = 1
	DefaultMemoryMiB = 256
)

// SingleHost places on the one host that it is given. It fails with Unavailable when there is
// none or it cannot be reached, NotFound for an unknown template, Invalid for a
// size that no host could have, and Exhausted with what is short.
func SingleHost(hosts []Host, r Request, over Overcommit) (Placement, error) {
	if len(hosts) == 0 {
		return Placement{}, models.Errorf(models.Unavailable, "no host has registered yet").
			WithHint("start the host agent, or try again in a few seconds")
	}
	h := hosts[0]
	if !h.Reachable {
		return Placement{}, models.Errorf(models.Unavailable, "the host cannot be reached").
			WithHint("try again in a few seconds")
	}
	t, err := template(h, r.Template)
	if err != nil {
		return Placement{}, err
	}
	size := complete(r.Size, t.Default)
	if err := check(size, t); err != nil {
		return Placement{}, err
	}
	return Placement{Host: h.ID, Size: size}, h.fit(h.need(size), 1, over)
}

func template(h Host, name string) (Template, error) {
	var names []string
	for _, t := range h.Templates {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	err := models.Errorf(models.NotFound, "there is no template %q", name)
	if len(names) == 0 {
		return Template{}, err.WithHint("the host has no templates yet: make images builds them")
	}
	slices.Sort(names)
	return Template{}, err.WithHint("there are: %s", strings.Join(names, ", "))
}

func complete(s, def models.Size) models.Size {
	return models.Size{
		VCPUs:     first(s.VCPUs, def.VCPUs, DefaultVCPUs),
		MemoryMiB: first(s.MemoryMiB, def.MemoryMiB, DefaultMemoryMiB),
		DiskMiB:   first(s.DiskMiB, def.DiskMiB),
	}
}

func first(values ...int) int {
	for _, v := range values {
		if v != 0 {
			return v
		}
	}
	return 0
}

func check(s models.Size, t Template) error {
	if err := models.CheckSize(s); err != nil {
		return err
	}
	if s.DiskMiB < t.Default.DiskMiB {
		return models.Errorf(models.Invalid, "disk_mib must be at least %d, the size of the template %s, not %d",
			t.Default.DiskMiB, t.Name, s.DiskMiB)
	}
	return nil
}

// memory is how memory is called in an error: what a sandbox needs of it is more than was asked for.
func (h Host) memory() string {
	if h.OverheadMiB == 0 {
		return "MiB of memory"
	}
	return fmt.Sprintf("MiB of memory (%d of them for its VMM)", h.OverheadMiB)
}

// Wake tells whether a paused sandbox of that size finds room on its host again. Its disk is there already. It fails with Unavailable when the host cannot be
// reached, and Exhausted with what is short.
func Wake(hosts []Host, on id.Host, s models.Size, over Overcommit) error {
	h, err := reach(hosts, on)
	if err != nil {
		return err
	}
	return h.fit(h.need(models.Size{VCPUs: s.VCPUs, MemoryMiB: s.MemoryMiB}), 1, over)
}

// Beside tells whether n more sandboxes of a size find room on one host, where what they are made from lies. Its errors are as those of Wake.
func Beside(hosts []Host, on id.Host, s models.Size, n int, over Overcommit) error {
	h, err := reach(hosts, on)
	if err != nil {
		return err
	}
	return h.fit(h.need(s), n, over)
}

// Keep tells whether a snapshot of a sandbox of that size finds room on the disk of its host. Its errors are as those of Wake.
func Keep(hosts []Host, on id.Host, s models.Size, over Overcommit) error {
	h, err := reach(hosts, on)
	if err != nil {
		return err
	}
	return h.fit(Room{DiskMiB: int64(s.DiskMiB) + int64(s.MemoryMiB)}, 1, over)
}

func reach(hosts []Host, on id.Host) (Host, error) {
	for _, h := range hosts {
		if h.ID == on && h.Reachable {
			return h, nil
		}
	}
	return Host{}, models.Errorf(models.Unavailable, "the host %s, where it lies, cannot be reached", on).WithHint("try again in a few seconds")
}

// need is what a sandbox of that size takes of the host.
func (h Host) need(s models.Size) Room {
	return Room{VCPUs: int64(s.VCPUs), MemoryMiB: int64(s.MemoryMiB) + h.OverheadMiB, DiskMiB: int64(s.DiskMiB)}
}

// fit compares what one of n takes with what the host has in all, then that of all n with what is left of it.
func (h Host) fit(one Room, n int, over Overcommit) error {
	var short []string
	fits := true
	for _, k := range []struct {
		name           string
		want, has, got int64 // asked for, capacity, allotted already
		factor         float64
	}{
		{"vCPUs", one.VCPUs, h.Capacity.VCPUs, h.Allotted.VCPUs, over.VCPU},
		{h.memory(), one.MemoryMiB, h.Capacity.MemoryMiB, h.Allotted.MemoryMiB, over.Memory},
		{"MiB of disk", one.DiskMiB, h.Capacity.DiskMiB, h.Allotted.DiskMiB, over.Disk},
	} {
		free, all := max(0, int64(float64(k.has)*k.factor)-k.got), k.want*int64(n)
		if all > free || k.want > k.has {
			short = append(short, fmt.Sprintf("%d %s needed, %d left", all, k.name, min(free, k.has*int64(n))))
		}
		fits = fits && k.want <= k.has
	}
	if short == nil {
		return nil
	}
	err := models.Errorf(models.Exhausted, "the host has no room for it: %s", strings.Join(short, "; "))
	if !fits {
		return err.WithHint("the host is too small for it, also when empty: ask for less")
	}
	return err.WithHint("destroy sandboxes that are not needed, or ask for less")
}
