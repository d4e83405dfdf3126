package doctor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/meminfo"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	leastMemory  = 256 << 20 // bytes: a sandbox of the smallest size and its VMM
	enoughMemory = 1 << 30
	// enoughFiles open files serve some 500 sandboxes, each with about a dozen in the host agent.
	enoughFiles = 8192
)

func checkRoot(_ context.Context, m *machine) Finding {
	if m.euid != 0 {
		return fail("root", fmt.Sprintf("this is user %d", m.euid), "run as root: the host agent makes network devices, mounts and virtual machines")
	}
	return ok("root", "yes")
}

func checkKernel(_ context.Context, m *machine) Finding {
	release := m.read("proc/sys/kernel/osrelease")
	major, minor, found := version(release)
	switch {
	case !found:
		return warn("kernel", fmt.Sprintf("the version %q is not known", release), "use Linux 5.10 or newer")
	case major < 5 || major == 5 && minor < 10:
		return warn("kernel", "Linux "+release+" is older than what is tested", "use Linux 5.10 or newer")
	}
	return ok("kernel", "Linux "+release)
}

func checkMemory(_ context.Context, m *machine) Finding {
	available, total := m.memory("MemAvailable"), m.memory("MemTotal")
	found := fmt.Sprintf("%s available of %s", size(available), size(total))
	switch {
	case total == 0:
		return warn("memory", "unknown: /proc/meminfo is not as expected", "mount /proc")
	case available < leastMemory:
		return fail("memory", found, "end something that uses memory")
	case available < enoughMemory:
		return warn("memory", found, "few sandboxes fit: end something that uses memory")
	}
	return ok("memory", found)
}

// memory is a field of /proc/meminfo, in bytes.
func (m *machine) memory(field string) uint64 {
	bytes, _ := meminfo.Bytes(m.read("proc/meminfo"), field) // 0 where it is nonsense
	return bytes
}

func checkUserfaultfd(_ context.Context, m *machine) Finding {
	if m.exists("dev/userfaultfd") {
		return ok("userfaultfd", "/dev/userfaultfd exists")
	}
	if m.exists("proc/sys/vm/unprivileged_userfaultfd") {
		return ok("userfaultfd", "the kernel has it (for root)")
	}
	return warn("userfaultfd", "the kernel has none, so that remote snapshots are loaded whole before they run", "use a kernel with CONFIG_USERFAULTFD")
}

func limitOfOpenFiles() (soft, hard uint64, err error) {
	var limit unix.Rlimit
	err = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return limit.Cur, limit.Max, err
}

// checkOpenFiles looks at the hard limit: Go programs raise the soft one to it by themselves.
func checkOpenFiles(_ context.Context, m *machine) Finding {
	_, hard, err := m.openFiles()
	switch {
	case err != nil:
		return warn("open files", fmt.Sprintf("the limit is not known: %v", err), "ulimit -Hn")
	case hard < enoughFiles:
		return warn("open files", fmt.Sprintf("at most %d", hard), fmt.Sprintf("ulimit -Hn %d, or LimitNOFILE= of the service", enoughFiles))
	}
	return ok("open files", fmt.Sprintf("up to %d", hard))
}

func checkDatabases(context.Context, *machine) Finding {
	binaries, err := devstack.FindBinaries()
	if err != nil {
		e := models.AsError(err)
		return warn("databases", e.Message, e.Hint+"; or give wrenn up --postgres and --redis")
	}
	return ok("databases", binaries.Postgres+", "+binaries.Redis)
}
