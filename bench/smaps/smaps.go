// Package smaps reads what a process takes of memory.
package smaps

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Sums returns the sums of proc_pid_smaps(5), in MiB, by their names, such as Rss, Pss and Private_Dirty.
func Sums(pid int) (map[string]float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return nil, err
	}
	sizes := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[2] == "kB" {
			n, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", line, err)
			}
			sizes[strings.TrimSuffix(fields[0], ":")] = n / 1024
		}
	}
	return sizes, nil
}
