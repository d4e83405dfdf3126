package server

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// metrics is the answer of /metrics. Sizes are in bytes where the name has no unit.
type metrics struct {
	Timestamp   int64   `json:"ts"` // seconds since 1970
	CPUCount    int     `json:"cpu_count"`
	CPUUsedPct  float64 `json:"cpu_used_pct"` // of all CPUs together, since the previous call, at first since the boot
	MemTotal    uint64  `json:"mem_total"`
	MemUsed     uint64  `json:"mem_used"` // without buffers and page cache
	MemCache    uint64  `json:"mem_cache"`
	MemTotalMiB uint64  `json:"mem_total_mib"`
	MemUsedMiB  uint64  `json:"mem_used_mib"`
	DiskUsed    uint64  `json:"disk_used"` // of the root file system
	DiskTotal   uint64  `json:"disk_total"`
}

// cpuMeter remembers the CPU times of the previous measurement.
type cpuMeter struct {
	mu          sync.Mutex
	busy, total uint64
	percent     float64
}

func (c *cpuMeter) measure() (metrics, error) {
	m := metrics{Timestamp: time.Now().Unix(), CPUCount: runtime.NumCPU()}
	var err error
	if m.CPUUsedPct, err = c.sample(); err != nil {
		return m, err
	}
	if err := m.readMemory(); err != nil {
		return m, err
	}
	return m, m.readDisk()
}

// sample returns the share of time that was spent busy since the last sample.
func (c *cpuMeter) sample() (float64, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	busy, total, err := cpuTimes(stat)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if total > c.total {
		c.percent = 100 * float64(busy-min(busy, c.busy)) / float64(total-c.total)
		c.busy, c.total = busy, total
	}
	return c.percent, nil
}

// cpuTimes reads the first line of /proc/stat (proc(5)): user nice system idle iowait irq softirq
// steal guest guest_nice, in ticks; the last two are part of the first two.
func cpuTimes(stat []byte) (busy, total uint64, err error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("unexpected first line of /proc/stat: %.80q", line)
	}
	for i, field := range fields[1:9] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		total += n
		if i != 3 && i != 4 {
			busy += n
		}
	}
	return busy, total, nil
}

func (m *metrics) readMemory() error {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	field := memoryFields(info)
	m.MemTotal = field["MemTotal"]
	m.MemCache = field["Cached"] + field["SReclaimable"]
	unused := field["MemFree"] + field["Buffers"] + m.MemCache
	m.MemUsed = m.MemTotal - min(m.MemTotal, unused)
	m.MemTotalMiB, m.MemUsedMiB = m.MemTotal>>20, m.MemUsed>>20
	return nil
}

// memoryFields reads lines of the form "MemTotal:  251000 kB" into bytes.
func memoryFields(info []byte) map[string]uint64 {
	fields := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(info))
	for lines.Scan() {
		parts := strings.Fields(lines.Text())
		if len(parts) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(parts[1], 10, 54); err == nil {
			fields[strings.TrimSuffix(parts[0], ":")] = n << 10
		}
	}
	return fields
}

func (m *metrics) readDisk() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return fmt.Errorf("statfs /: %w", err)
	}
	size := uint64(fs.Bsize)
	m.DiskTotal = fs.Blocks * size
	m.DiskUsed = (fs.Blocks - fs.Bfree) * size
	return nil
}
