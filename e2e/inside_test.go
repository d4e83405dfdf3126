package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// TestManyExecs: short programs one after the other and at once; none is lost, none hangs, nothing of them stays.
func TestManyExecs(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	// The kernel's threads come and go as it likes: only the children of its kthreadd are left out.
	census := "ps -eo ppid= -o pid= | grep -vc '^ *2 '; ps -eo stat | grep -c '^Z'; ls /proc/1/fd | wc -l; find /sys/fs/cgroup -type d | wc -l"
	p.shell(id, census)
	before := p.census(id, census)
	for i := range 1000 {
		if out := p.shell(id, fmt.Sprint("echo ", i)); out != fmt.Sprintln(i) {
			t.Fatalf("exec %d said %q", i, out)
		}
	}
	p.atOnce(id, 100)
	p.eventually("the guest is as before", func(context.Context) error {
		after := p.census(id, census)
		for i, what := range []string{"processes", "zombies", "descriptors of envd", "cgroups"} {
			// The host may keep some idle connections to envd.
			if slack := map[string]int{"descriptors of envd": 16}[what]; after[i] > before[i]+slack {
				return fmt.Errorf("%s: %d before, %d after", what, before[i], after[i])
			}
		}
		return nil
	})
	p.destroy(id)
}

// census runs a program that prints numbers.
func (p *platform) census(id, line string) []int {
	p.t.Helper()
	var numbers []int
	for _, field := range strings.Fields(p.shell(id, line)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			p.t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// atOnce runs n programs at the same time, each with an answer of its own.
func (p *platform) atOnce(id string, n int) {
	p.t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			r, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: fmt.Sprintf("sleep 0.2; echo out %d; echo err %d >&2; exit %d", i, i, i)})
			if err != nil {
				p.t.Errorf("exec %d of %d at once: %v", i, n, err)
			} else if r.ExitCode != i || r.Stdout != fmt.Sprintf("out %d\n", i) || r.Stderr != fmt.Sprintf("err %d\n", i) {
				p.t.Errorf("exec %d of %d at once: %+v", i, n, r)
			}
		})
	}
	all.Wait()
}

// TestHostilePrograms: whatever a program does to its guest, its caller gets a truthful answer, and the sandbox can be
// used afterwards.
func TestHostilePrograms(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	for _, c := range []struct {
		name, line string
		limit      time.Duration
		check      func(r *wrenn.ExecResult) bool
	}{
		{"fork bomb", "f() { f | f & }; f; sleep 1000", 10 * time.Second, func(r *wrenn.ExecResult) bool { return r.TimedOut }},
		{"full disk", "cat /dev/zero > fill; echo status $?; rm fill", 0, func(r *wrenn.ExecResult) bool {
			return strings.Contains(r.Stderr, "No space left") && strings.Contains(r.Stdout, "status 1")
		}},
		{"ignores SIGTERM", "trap '' TERM INT; while :; do sleep 1; done", time.Second, func(r *wrenn.ExecResult) bool { return r.TimedOut }},
		{"memory", "head -c 1G /dev/zero | tail | wc -c; echo after", 0, func(r *wrenn.ExecResult) bool {
			return r.OOMKilled && strings.Contains(r.Stdout, "after")
		}},
		{"10 million lines", "seq 10000000", 0, func(r *wrenn.ExecResult) bool {
			return r.ExitCode == 0 && r.StdoutTruncated && strings.HasPrefix(r.Stdout, "1\n2\n3\n")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: c.line, Timeout: c.limit})
			if err != nil {
				t.Fatal(err)
			}
			if !c.check(r) {
				t.Errorf("exit %d, signal %d, timed out %v, oom %v, stdout %.200q, stderr %.200q",
					r.ExitCode, r.Signal, r.TimedOut, r.OOMKilled, r.Stdout, r.Stderr)
			}
			p.eventually("the sandbox can be used", func(ctx context.Context) error {
				r, err := p.client.Exec(ctx, id, wrenn.ExecRequest{Shell: "echo fine; ps -e | wc -l"})
				if err == nil && !strings.HasPrefix(r.Stdout, "fine\n") {
					err = fmt.Errorf("it said %q", r.Stdout)
				}
				return err
			})
		})
	}
	p.destroy(id)
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// TestTenMillionLinesArriveWhole: a stream loses nothing, whatever the program writes and however slowly it is read.
func TestTenMillionLinesArriveWhole(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	stream, err := p.client.ExecStream(p.context(), id, wrenn.ExecRequest{Shell: "seq 10000000"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var bytes counter
	exit, err := stream.Copy(&bytes, io.Discard)
	if err != nil || exit.ExitCode != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if want := counter(78888897); bytes != want { // what `seq 10000000 | wc -c` says
		t.Errorf("%d of %d bytes arrived", bytes, want)
	}
	p.destroy(id)
}

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestFileLargerThanTheGuest: a file of many times the guest's memory goes in, and its end comes out by itself. Neither that nor
// reading more of it than fits leaves it in the guest's page cache.
func TestFileLargerThanTheGuest(t *testing.T) {
	const size = 5 << 30
	p := start(t)
	sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Template: "minimal", MemoryMiB: 256, DiskMiB: 7 << 10})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	content := io.MultiReader(io.LimitReader(zeros{}, size-3), strings.NewReader("end"))
	written, err := p.client.WriteFile(ctx, sb.ID, "/home/user/large", content)
	if err != nil || written.Size != size {
		t.Fatalf("%+v, %v", written, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/v1/sandboxes/"+sb.ID+"/files/home/user/large", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", p.key)
	req.Header.Set("Range", "bytes=-3")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	last, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusPartialContent || string(last) != "end" {
		t.Errorf("the last bytes: %s, %q, %v", resp.Status, last, err)
	}
	part, err := p.client.ReadFileRange(ctx, sb.ID, "/home/user/large", 1<<30+1, 300<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	if n, err := io.Copy(io.Discard, part); n != 300<<20 || err != nil {
		t.Errorf("%d bytes of a part came, %v", n, err)
	}
	if cached := p.cachedMiB(sb.ID); cached > 100 { // with the file it would be some 180
		t.Errorf("the guest's page cache holds %d MiB", cached)
	}
	p.destroy(sb.ID)
}

// cachedMiB is the size of a guest's page cache.
func (p *platform) cachedMiB(id string) int {
	p.t.Helper()
	text := p.shell(id, "cat /proc/meminfo")
	_, text, found := strings.Cut(text, "\nCached:")
	var kib int
	if _, err := fmt.Sscanf(text, "%d kB", &kib); !found || err != nil {
		p.t.Fatalf("no size of the page cache in %q: %v", text, err)
	}
	return kib >> 10
}
