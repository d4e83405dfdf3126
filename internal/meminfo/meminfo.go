// Package meminfo understands proc_meminfo(5).
package meminfo

import (
	"strconv"
	"strings"
)

// Bytes returns a field, such as MemAvailable, of the text of /proc/meminfo, and whether it is there.
func Bytes(text, field string) (uint64, bool) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 54)
			return kib << 10, err == nil
		}
	}
	return 0, false
}
