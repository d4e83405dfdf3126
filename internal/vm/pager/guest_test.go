package pager

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/pager/pagertest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// playEnv says what a copy of the test binary plays.
const playEnv = "WRENN_PAGER_PLAY"

const guestBlocks = 32

// TestMain is a VMM or a pager's program where the test binary was started as one.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(playEnv) {
	case "":
		os.Exit(m.Run())
	case "guest":
		err = playGuest(os.Args[1], os.Stdin, os.Stdout)
	case "pager":
		err = playPager()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// vmm is another process that has a guest's memory, and does what it is told with it.
type vmmProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startGuest(t *testing.T, socket string) *vmmProcess {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, socket)
	cmd.Env = append(os.Environ(), playEnv+"=guest", "GODEBUG=asyncpreemptoff=1") // a signal would have a thread look for its page again
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it may wait for memory for ever
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &vmmProcess{t, cmd, in, bufio.NewScanner(out)}
}

// tell returns the answer of the VMM to an order, of which the parts are words.
func (v *vmmProcess) tell(format string, args ...any) string {
	v.t.Helper()
	v.order(format, args...)
	return v.answer()
}

func (v *vmmProcess) order(format string, args ...any) {
	v.t.Helper()
	_, err := fmt.Fprintf(v.in, format+"\n", args...)
	must(v.t, err)
}

func (v *vmmProcess) answer() string {
	v.t.Helper()
	if !v.lines.Scan() {
		v.t.Fatalf("the VMM has ended (%v)", v.lines.Err())
	}
	return v.lines.Text()
}

// playGuest has two regions, the border of which is in the middle of a block.
func playGuest(socket string, in io.Reader, out io.Writer) error {
	const first = 5*BlockSize + 3*uffd.PageSize
	m, err := pagertest.Map(socket, first, guestBlocks*BlockSize-first)
	if err != nil {
		return err
	}
	g := played{m}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var what string
		var from, length int
		if _, err := fmt.Sscan(lines.Text(), &what, &from, &length); err != nil {
			return err
		}
		answer := "done"
		switch what {
		case "sum":
			answer = g.sum(from, length)
		case "remove":
			err = g.remove(from, length)
		case "tangle":
			answer, err = g.tangle(from)
		case "scan":
			g.scan(from, length)
		case "churn":
			answer, err = g.churn(from, length)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, answer)
	}
	return nil
}

type played struct{ *pagertest.Memory }

func (g played) page(i int) []byte {
	at := i * uffd.PageSize
	for _, r := range g.Regions {
		if at < len(r) {
			return r[at : at+uffd.PageSize]
		}
		at -= len(r)
	}
	return nil
}

// sum is that of a number of pages.
func (g played) sum(from, n int) string {
	h := sha256.New()
	for i := from; i < from+n; i++ {
		h.Write(g.page(i))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (g played) remove(from, n int) error {
	for i := from; i < from+n; i++ {
		if err := unix.Madvise(g.page(i), unix.MADV_DONTNEED); err != nil {
			return err
		}
	}
	return nil
}

// tangle gives a page back for which a thread waits, and says what that finds.
func (g played) tangle(page int) (string, error) {
	found := make(chan string)
	go func() { found <- g.sum(page, 1) }()
	time.Sleep(50 * time.Millisecond) // until it waits, as there is nothing to be seen of that
	err := g.remove(page, 1)
	return <-found, err
}

// scan reads all pages with many threads, each in an order of its own.
func (g played) scan(threads, _ int) {
	var group sync.WaitGroup
	for range threads {
		group.Go(func() {
			for _, i := range rand.Perm(guestBlocks * pagesPerBlock) {
				_ = g.page(i)[0] + g.page(i)[uffd.PageSize-1]
			}
		})
	}
	group.Wait()
}

// churn gives every step-th page back, many threads at once, and says which of them were not zeros afterwards.
func (g played) churn(threads, step int) (string, error) {
	var group sync.WaitGroup
	errs, wrong := make([]error, threads), make([]string, threads)
	for t := range threads {
		group.Go(func() {
			for i := t * step; i < guestBlocks*pagesPerBlock; i += threads * step {
				if t%2 == 0 {
					_ = g.page(i)[0]
				}
				if errs[t] = g.remove(i, 1); errs[t] != nil {
					return
				}
				if strings.Trim(string(g.page(i)), "\x00") != "" {
					wrong[t] += fmt.Sprint(" ", i)
				}
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return "", err
		}
	}
	return "wrong:" + strings.Join(wrong, ""), nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// limit is there for what hangs.
const limit = 2 * time.Minute
