package vmtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Overhead is what a VMM takes of the host's memory beside its guest's.
type Overhead struct {
	PssMiB     float64 // with its part of what it shares with others
	PrivateMiB float64 // what it shares with nobody
}

// OverheadOf reads the overhead of a VMM whose guest has guestMiB: what all its mappings take but those, nine tenths as large as the guest's
// memory at least, that are the guest's memory. See Documentation/filesystems/proc.rst of Linux, smaps.
func OverheadOf(pid, guestMiB int) (Overhead, error) {
	smaps, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return Overhead{}, err
	}
	defer smaps.Close()
	var o Overhead
	guest := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		kib, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return Overhead{}, err
		}
		switch {
		case fields[0] == "Size:":
			guest = kib >= float64(guestMiB)*1024*0.9
		case guest:
		case fields[0] == "Pss:":
			o.PssMiB += kib / 1024
		case strings.HasPrefix(fields[0], "Private_"):
			o.PrivateMiB += kib / 1024
		}
	}
	return o, lines.Err()
}

// Call makes one request to the suite's guest in a VM, and returns the answer's body.
func Call(t testing.TB, running vm.Running, path string, body io.Reader) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), defaultLimit)
	defer cancel()
	text, err := call(ctx, running, http.MethodPost, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
