package pager

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// content is a Source of random blocks, of which every fourth is zeros.
type content struct {
	data []byte
	hold func(ctx context.Context, i int64) error // called before a block is given; nil for nothing

	mu    sync.Mutex
	asked []int64
}

func newContent() *content {
	c := &content{data: make([]byte, guestBlocks*BlockSize)}
	random := rand.NewChaCha8([32]byte{1})
	for i := range guestBlocks {
		if i%4 != 3 {
			_, _ = random.Read(c.data[i*BlockSize : (i+1)*BlockSize])
		}
	}
	return c
}

func (c *content) Block(ctx context.Context, i int64) ([]byte, error) {
	c.mu.Lock()
	c.asked = append(c.asked, i)
	c.mu.Unlock()
	if c.hold != nil {
		if err := c.hold(ctx, i); err != nil {
			return nil, err
		}
	}
	if i%4 == 3 {
		return nil, nil
	}
	return c.data[i*BlockSize : (i+1)*BlockSize], nil
}

// sum is that of a number of pages.
func (c *content) sum(from, n int) string {
	sum := sha256.Sum256(c.data[from*uffd.PageSize : (from+n)*uffd.PageSize])
	return hex.EncodeToString(sum[:])
}

// rig is a pager in this process, and a VMM in another.
type rig struct {
	*testing.T
	order  Order
	source *content
	guest  *vmmProcess
	hurry  chan struct{}
	ended  chan error
}

func newRig(t *testing.T) *rig {
	testlane.NeedRoot(t)
	r := &rig{T: t, source: newContent(), hurry: make(chan struct{}), ended: make(chan error, 1)}
	dir := t.TempDir()
	r.order = Order{Memory: filepath.Join(dir, "memory"), Size: guestBlocks * BlockSize, Record: filepath.Join(dir, "record"), Window: limit}
	must(t, os.WriteFile(r.order.Memory, nil, 0o600))
	must(t, os.Truncate(r.order.Memory, r.order.Size))
	return r
}

func (r *rig) start() {
	r.Helper()
	l, socket := listen(r.T)
	p, err := newPager(r.order, r.source, r.hurry, slog.New(slog.DiscardHandler))
	must(r.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.ended <- p.run(ctx, l) })
	r.Cleanup(func() { cancel(); running.Wait() })
	r.guest = startGuest(r.T, socket)
}

func listen(t *testing.T) (l *net.UnixListener, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pager") // t.TempDir is too long for a unix socket
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	path = filepath.Join(dir, "s")
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l, path
}

func (r *rig) end() error {
	r.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(limit):
		r.Fatal("the pager has not ended")
		return nil
	}
}

// checkSum holds that the guest finds in its memory what the source has.
func (r *rig) checkSum(from, n int) {
	r.Helper()
	if got, want := r.guest.tell("sum %d %d", from, n), r.source.sum(from, n); got != want {
		r.Errorf("pages from %d on, %d of them, are not what they were", from, n)
	}
}

const guestPages = guestBlocks * pagesPerBlock

func TestMemoryComesAndIsWhole(t *testing.T) {
	r := newRig(t)
	r.start()
	r.guest.order("scan 8 0")
	time.AfterFunc(10*time.Millisecond, func() { close(r.hurry) }) // somewhere in its middle
	if got := r.guest.answer(); got != "done" {
		t.Fatal(got)
	}
	must(t, r.end())
	r.checkSum(0, guestPages)
	r.checkFile()
	r.guest.tell("remove 0 %d", guestPages) // nobody is asked any more
	if got, want := r.guest.tell("sum 0 1"), hex.EncodeToString(sumOf(make([]byte, uffd.PageSize))); got != want {
		t.Error("memory that was given back is not zeros")
	}
}

func sumOf(data []byte) []byte { sum := sha256.Sum256(data); return sum[:] }

// checkFile holds that the local file is what the source has, and has holes for zeros.
func (r *rig) checkFile() {
	r.Helper()
	data, err := os.ReadFile(r.order.Memory)
	must(r.T, err)
	if string(data) != string(r.source.data) {
		r.Error("the file is not what the source has")
	}
	f, err := openFile(r.order.Memory, r.order.Size, r.source)
	must(r.T, err)
	defer f.close()
	if zeros, err := f.read(3); err != nil || zeros != nil {
		r.Errorf("a block of zeros takes room (%v)", err)
	}
}

// TestAnswersBeforeItIsWhole holds that a page comes while all else is slow, and that the working set comes before the rest.
func TestAnswersBeforeItIsWhole(t *testing.T) {
	r := newRig(t)
	open := make(chan struct{})
	quick := map[int64]bool{20: true, 25: true}
	r.source.hold = func(ctx context.Context, i int64) error {
		if quick[i] {
			return nil
		}
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.order.First = []int64{25, 30, guestBlocks + 7, -1}
	r.start()
	r.checkSum(20*pagesPerBlock+5, 1)
	r.checkSum(25*pagesPerBlock, pagesPerBlock)
	select {
	case err := <-r.ended:
		t.Fatalf("it has ended: %v", err)
	default:
	}
	r.source.mu.Lock()
	if at := map[int64]int{}; true {
		for n, i := range r.source.asked {
			at[i] = n
		}
		if at[25] > workers || at[30] > workers {
			t.Errorf("the working set was not asked for first: %v", r.source.asked)
		}
	}
	r.source.mu.Unlock()
	close(open)
	close(r.hurry)
	must(t, r.end())
	r.checkSum(0, guestPages)
	r.checkFile()
	blocks, err := ReadWorkingSet(r.order.Record)
	must(t, err)
	if diff := cmp.Diff([]int64{20, 25}, blocks); diff != "" {
		t.Errorf("the working set:\n%s", diff)
	}
}

// TestRemovedMemoryIsZeros gives memory back before it has come, while it comes and afterwards.
func TestRemovedMemoryIsZeros(t *testing.T) {
	r := newRig(t)
	open := make(chan struct{})
	r.source.hold = func(ctx context.Context, _ int64) error {
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.start()
	r.guest.tell("remove %d 4", 9*pagesPerBlock+1)
	r.checkZeros(9*pagesPerBlock+1, 4) // without asking the source
	close(open)
	r.checkSum(9*pagesPerBlock, 1)
	r.checkSum(9*pagesPerBlock+5, 10)
	r.checkZeros(9*pagesPerBlock+1, 4)
	r.guest.tell("remove %d 2", 9*pagesPerBlock+5)
	r.checkZeros(9*pagesPerBlock+5, 2)
	close(r.hurry)
	must(t, r.end())
	r.checkZeros(9*pagesPerBlock+1, 6)
	r.checkSum(9*pagesPerBlock+7, pagesPerBlock)
}

// TestRemovedWhileWaitedFor: who waits for a page that is given back meanwhile goes on, with zeros.
func TestRemovedWhileWaitedFor(t *testing.T) {
	r := newRig(t)
	const block = 9
	open := make(chan struct{})
	r.source.hold = func(ctx context.Context, i int64) error {
		if i != block {
			return nil
		}
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.start()
	r.guest.order("tangle %d 0", block*pagesPerBlock+1)
	time.AfterFunc(300*time.Millisecond, func() { close(open) }) // when it was given back, or before: then it proves nothing
	if got, want := r.guest.answer(), hex.EncodeToString(sumOf(make([]byte, uffd.PageSize))); got != want {
		t.Error("it has found something else")
	}
	close(r.hurry)
	must(t, r.end())
	r.checkSum(block*pagesPerBlock+2, 5)
}

func (r *rig) checkZeros(from, n int) {
	r.Helper()
	if got, want := r.guest.tell("sum %d %d", from, n), hex.EncodeToString(sumOf(make([]byte, n*uffd.PageSize))); got != want {
		r.Errorf("pages from %d on, %d of them, are not zeros", from, n)
	}
}

// TestRemovalsRace gives every third page back with many threads while all pages are on their way, and no old content may come after.
func TestRemovalsRace(t *testing.T) {
	for range 3 {
		r := newRig(t)
		r.order.Window = time.Nanosecond
		r.start()
		if got := r.guest.tell("churn 6 3"); got != "wrong:" {
			t.Error(got)
		}
		must(t, r.end())
		for page := 0; page < guestPages; page += 3 {
			clear(r.source.data[page*uffd.PageSize:][:uffd.PageSize])
		}
		r.checkSum(0, guestPages)
	}
}

func TestTroublesOfTheSource(t *testing.T) {
	gone := models.Errorf(models.Unavailable, "the object store does not answer")
	for name, c := range map[string]struct {
		hold func(context.Context, int64) error
		want models.Code // "" where the memory comes all the same
	}{
		"it fails now and then": {func() func(context.Context, int64) error {
			var mu sync.Mutex
			failed := map[int64]int{}
			return func(_ context.Context, i int64) error {
				mu.Lock()
				defer mu.Unlock()
				if failed[i]++; failed[i] <= 2 {
					return gone
				}
				return nil
			}
		}(), ""},
		"it is gone":    {func(context.Context, int64) error { return gone }, models.Unavailable},
		"it is silent":  {func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }, models.Unavailable},
		"it is damaged": {func(context.Context, int64) error { return models.Errorf(models.Precondition, "chunk x is damaged") }, models.Precondition},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.source.hold = c.hold
			if c.want != "" {
				r.order.Patience = 300 * time.Millisecond
			}
			r.start()
			r.guest.order("sum 0 %d", guestPages)
			if c.want == "" {
				if got := r.guest.answer(); got != r.source.sum(0, guestPages) {
					t.Error("the guest has found something else")
				}
				close(r.hurry)
			}
			if err := r.end(); (c.want == "") != (err == nil) || err != nil && models.CodeOf(err) != c.want {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestUnaskedForIsWaitedFor: what the guest does not wait for may take longer than what it waits for.
func TestUnaskedForIsWaitedFor(t *testing.T) {
	r := newRig(t)
	began := time.Now()
	r.order.Patience = 100 * time.Millisecond
	r.source.hold = func(context.Context, int64) error {
		if time.Since(began) < 5*r.order.Patience {
			return errors.New("not yet")
		}
		return nil
	}
	close(r.hurry)
	r.start()
	must(t, r.end())
	r.checkSum(0, guestPages)
}

func TestWorkingSetOfNoUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "set")
	if blocks, err := ReadWorkingSet(path); blocks != nil || err != nil {
		t.Errorf("a file that is missing: %v, %v", blocks, err)
	}
	for _, text := range []string{"", "{", `{"block_size":4096,"blocks":[1]}`, `{"blocks":["x"]}`} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if blocks, err := ReadWorkingSet(path); blocks != nil || err == nil {
			t.Errorf("%q: %v, %v", text, blocks, err)
		}
	}
}

// TestStrangers: what comes through the socket is looked at.
func TestStrangers(t *testing.T) {
	pipe, _, err := os.Pipe()
	must(t, err)
	defer pipe.Close()
	const good = `[{"base_host_virt_addr":4096,"size":524288,"offset":0,"page_size":4096}]`
	for name, c := range map[string]struct {
		text string
		fds  []int
		want string
	}{
		"another descriptor": {good, []int{int(pipe.Fd())}, "is no userfaultfd"},
		"two descriptors":    {good, []int{int(pipe.Fd()), int(pipe.Fd())}, "sent 2 descriptors"},
		"many descriptors":   {good, slices.Repeat([]int{int(pipe.Fd())}, 9), "sent 2 descriptors"}, // as many as there is room for
		"no descriptor":      {good, nil, "sent no descriptor"},
		"no memory":          {"[]", []int{int(pipe.Fd())}, "0 bytes"},
		"too much":           {strings.Repeat(" ", maxGreeting) + good, []int{int(pipe.Fd())}, "unexpected end"},
	} {
		l, path := listen(t)
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		must(t, err)
		var rights []byte
		if c.fds != nil {
			rights = unix.UnixRights(c.fds...)
		}
		_, _, err = conn.WriteMsgUnix([]byte(c.text), rights, nil)
		must(t, err)
		if _, err := receive(t.Context(), l, BlockSize); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		conn.Close()
	}
	l, _ := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := receive(ctx, l, BlockSize); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody: %v", err)
	}
}

func TestRegionsThatMakeNoSense(t *testing.T) {
	const size = 1 << 20
	for text, want := range map[string]string{
		`[{"base_host_virt_addr":4096,"size":1048576,"offset":0,"page_size":4096,"page_size_kib":4096}]`: "",
		`[]`: "0 bytes",
		`{`:  "unexpected end",
		`[{"base_host_virt_addr":4096,"size":524288,"offset":0,"page_size":4096}]`:                                                                              "524288 bytes",
		`[{"base_host_virt_addr":4096,"size":2097152,"offset":0,"page_size":4096}]`:                                                                             "cannot have",
		`[{"base_host_virt_addr":4096,"size":1048576,"offset":0,"page_size":2097152}]`:                                                                          "cannot have",
		`[{"base_host_virt_addr":4097,"size":1048576,"offset":0,"page_size":4096}]`:                                                                             "cannot have",
		`[{"base_host_virt_addr":4096,"size":1048576,"offset":4096,"page_size":4096}]`:                                                                          "cannot have",
		`[{"base_host_virt_addr":18446744073709547520,"size":1048576,"offset":0,"page_size":4096}]`:                                                             "cannot have",
		`[{"base_host_virt_addr":4096,"size":524288,"offset":0,"page_size":4096},{"base_host_virt_addr":4096,"size":1048576,"offset":524288,"page_size":4096}]`: "cannot have",
		`[` + strings.Repeat(`{"base_host_virt_addr":4096,"size":0,"offset":0,"page_size":4096},`, 20) + `{}]`:                                                  "21 regions",
	} {
		_, err := parseRegions([]byte(text), size)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
