// Package scheduler decides where a sandbox goes. Its functions are pure, over views of
// the hosts; who calls them makes sure that no two decisions use the same room.
package scheduler

import (
	"fmt"
	"maps"
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
	Templates   []models.Template
	VMM         VMM
	Archive     bool // it has an object store
	// Closed is why it takes no new sandboxes, such as "is being drained"; empty where it does. Those that it has it keeps.
	Closed string
}

// Room is an amount of what sandboxes take.
type Room struct {
	VCPUs, MemoryMiB, DiskMiB int64
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

// SingleHost places on that one host. It fails with NotFound for an unknown template, Invalid for a size that no host could have, and Exhausted with what is short.
func SingleHost(h Host, r Request, over Overcommit) (Placement, error) { return h.place(r, over) }

func (h *Host) place(r Request, over Overcommit) (Placement, error) {
	t, has := h.template(r.Template)
	if !has {
		return Placement{}, noTemplate(r.Template, []*Host{h})
	}
	size := complete(r.Size, t.Default())
	if err := check(size, t); err != nil {
		return Placement{}, err
	}
	return Placement{Host: h.ID, Size: size}, h.fit(h.need(size), 1, over)
}

func (h *Host) template(name string) (models.Template, bool) {
	at := slices.IndexFunc(h.Templates, func(t models.Template) bool { return t.Name == name })
	if at < 0 {
		return models.Template{}, false
	}
	return h.Templates[at], true
}

// noTemplate is the error for a template that none of the hosts has.
func noTemplate(name string, hosts []*Host) error {
	all := map[string]bool{}
	for _, h := range hosts {
		for _, t := range h.Templates {
			all[t.Name] = true
		}
	}
	err := models.Errorf(models.NotFound, "there is no template %q", name)
	if len(all) == 0 {
		return err.WithHint("the host has no templates yet: make images builds them")
	}
	return err.WithHint("there are: %s", strings.Join(slices.Sorted(maps.Keys(all)), ", "))
}

// complete is the size of what is asked for, on this host.
func (h *Host) complete(r Request) models.Size {
	t, _ := h.template(r.Template)
	return complete(r.Size, t.Default())
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

func check(s models.Size, t models.Template) error {
	if err := models.CheckSize(s); err != nil {
		return err
	}
	if s.DiskMiB < t.DiskMiB {
		return models.Errorf(models.Invalid, "disk_mib must be at least %d, the size of the template %s, not %d",
			t.DiskMiB, t.Name, s.DiskMiB)
	}
	return nil
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

// Beside tells whether n more sandboxes of a size find room on one host, where what they are made from lies. Its errors are as those of Wake, and Unavailable where that takes
// no new ones.
func Beside(hosts []Host, on id.Host, s models.Size, n int, over Overcommit) error {
	h, err := reach(hosts, on)
	if err != nil {
		return err
	}
	if h.Closed != "" {
		return models.Errorf(models.Unavailable, "the host %s, where it lies, %s and takes no new sandboxes", on, h.Closed).WithHint("try again later")
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

func reach(hosts []Host, on id.Host) (*Host, error) {
	for i := range hosts {
		if h := &hosts[i]; h.ID == on && h.Reachable {
			return h, nil
		}
	}
	return nil, models.Errorf(models.Unavailable, "the host %s, where it lies, cannot be reached", on).WithHint("try again in a few seconds")
}

// need is what a sandbox of that size takes of the host.
func (h *Host) need(s models.Size) Room {
	return Room{VCPUs: int64(s.VCPUs), MemoryMiB: int64(s.MemoryMiB) + h.OverheadMiB, DiskMiB: int64(s.DiskMiB)}
}

// kind is one of what sandboxes take.
type kind struct {
	unit           string
	vmm            int64 // how much of want is for the VMM
	want, has, got int64 // by one sandbox, capacity, allotted already
	factor         float64
}

func (h *Host) kinds(one Room, over Overcommit) [3]kind {
	return [3]kind{
		{"vCPUs", 0, one.VCPUs, h.Capacity.VCPUs, h.Allotted.VCPUs, over.VCPU},
		{"MiB of memory", h.OverheadMiB, one.MemoryMiB, h.Capacity.MemoryMiB, h.Allotted.MemoryMiB, over.Memory},
		{"MiB of disk", 0, one.DiskMiB, h.Capacity.DiskMiB, h.Allotted.DiskMiB, over.Disk},
	}
}

// String is how errors call it: a sandbox needs more memory than was asked for.
func (k kind) String() string {
	if k.vmm == 0 {
		return k.unit
	}
	return fmt.Sprintf("%s (%d of them for its VMM)", k.unit, k.vmm)
}

// lacks compares what one of n takes with what the host has in all, then that of all n with what is left of it. It says what is short, "" for nothing, and whether one would
// fit if the host were empty.
func (h *Host) lacks(one Room, n int, over Overcommit) (what string, fitsEmpty bool) {
	var short []string
	fitsEmpty = true
	for _, k := range h.kinds(one, over) {
		free, all := max(0, int64(float64(k.has)*k.factor)-k.got), k.want*int64(n)
		if all > free || k.want > k.has {
			short = append(short, fmt.Sprintf("%d %s needed, %d left", all, k, min(free, k.has*int64(n))))
		}
		fitsEmpty = fitsEmpty && k.want <= k.has
	}
	return strings.Join(short, ", "), fitsEmpty
}

// fit is Exhausted with what n sandboxes lack on the host.
func (h *Host) fit(one Room, n int, over Overcommit) error {
	short, fits := h.lacks(one, n, over)
	if short == "" {
		return nil
	}
	return exhausted("the host has no room for it: "+short, fits)
}
