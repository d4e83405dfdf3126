package ram

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// area is a mapping of a process: a line of proc_pid_maps(5).
type area struct {
	start, end  uint64
	permissions string
	offset      uint64
	device      string
	inode       uint64
}

var errNotMapped = errors.New("the guest's memory is not where the VMM says")

// openBase returns the file that the guest's memory is mapped from, or nil if there is none. It opens the file that is mapped, whatever has
// become of its name. The memory may be of several areas, but of one file from its beginning.
func (g Guest) openBase() (*os.File, error) {
	areas, err := g.areas()
	if err != nil {
		return nil, err
	}
	first := areas[0]
	for _, a := range areas {
		if !strings.HasSuffix(a.permissions, "p") {
			return nil, fmt.Errorf("the guest's memory at %#x is shared", a.start)
		}
		if a.device != first.device || a.inode != first.inode || a.inode != 0 && a.start-a.offset != g.Address {
			return nil, fmt.Errorf("the guest's memory at %#x is mapped from another place than that before it", a.start)
		}
	}
	if first.inode == 0 {
		return nil, nil
	}
	return os.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", g.PID, first.start, first.end))
}

// areas returns the areas that make up the guest's memory, without a gap.
func (g Guest) areas() ([]area, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", g.PID))
	if err != nil {
		return nil, err
	}
	var found []area
	next, end := g.Address, g.Address+uint64(g.Size)
	for line := range strings.Lines(string(text)) {
		var a area
		if _, err := fmt.Sscanf(line, "%x-%x %s %x %s %d", &a.start, &a.end, &a.permissions, &a.offset, &a.device, &a.inode); err != nil {
			return nil, fmt.Errorf("read /proc/%d/maps: %q: %w", g.PID, line, err)
		}
		if a.start <= next && next < a.end && next < end {
			found, next = append(found, a), a.end
		}
	}
	if next < end || len(found) == 0 {
		return nil, errNotMapped
	}
	return found, nil
}
