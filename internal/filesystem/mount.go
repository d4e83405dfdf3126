package filesystem

import (
	"fmt"
	"os"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// loopMajor is the major number of loop devices: Documentation/admin-guide/devices.txt.
const loopMajor = "7"

// mountedLoop returns the loop device that is mounted on dir, an absolute path without links; it
// is empty when nothing is mounted there. It asks mountinfo, see proc_pid_mountinfo(5), because a file
// system that has shut down after an error answers no stat(2) any more.
func mountedLoop(dir string) (device string, err error) {
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return "", err
	}
	number := ""
	for line := range strings.Lines(string(data)) {
		// 36 35 98:0 / /mnt rw,noatime - ext3 /dev/root rw; a later line lies above an earlier one.
		if fields := strings.Fields(line); len(fields) > 4 && unescape(fields[4]) == dir {
			number = fields[2]
		}
	}
	major, minor, _ := strings.Cut(number, ":")
	switch {
	case number == "":
		return "", nil
	case major != loopMajor:
		return "", foreignMount(dir)
	}
	return "/dev/loop" + minor, nil
}

func foreignMount(dir string) error {
	return models.Errorf(models.Precondition, "something else than the disk volume is mounted on %s", dir).
		WithHint("unmount it, or give wrenn another data folder")
}

// unescape undoes how the kernel writes white space and backslashes in a path.
func unescape(path string) string {
	for _, c := range " \t\n\\" {
		path = strings.ReplaceAll(path, fmt.Sprintf(`\%03o`, c), string(c))
	}
	return path
}
