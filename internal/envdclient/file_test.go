package envdclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func read(t testing.TB, c *Client, path string) (string, int64, error) {
	t.Helper()
	f, err := c.ReadFile(within(t), path, "")
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(f)
	return string(data), f.Size, err
}

func TestFiles(t *testing.T) {
	c := attach(t)
	dir := t.TempDir()
	for _, text := range []string{"", "x", "bytes \x00\xff\r\n", strings.Repeat("large", 1<<20)} {
		path := filepath.Join(dir, "new folder", "ü ?&=#%")
		info, err := c.WriteFile(within(t), path, "", strings.NewReader(text), unknownSize)
		if err != nil || info != (FileInfo{Path: path, Size: int64(len(text))}) {
			t.Errorf("%+v, %v", info, err)
		}
		if got, size, err := read(t, c, path); got != text || size != int64(len(text)) || err != nil {
			t.Errorf("%d bytes, size %d, %v", len(got), size, err)
		}
	}
}

func TestFileErrors(t *testing.T) {
	c := attach(t)
	dir := t.TempDir()
	for path, want := range map[string]struct {
		code models.Code
		text string
	}{
		filepath.Join(dir, "missing"): {models.NotFound, "does not exist"},
		dir:                           {models.Invalid, "is a directory"},
		"":                            {models.Invalid, "required"},
		"/dev/null":                   {models.Invalid, "not a regular file"},
		"a\x00b":                      {models.Invalid, "NUL"},
	} {
		_, _, err := read(t, c, path)
		wantError(t, err, want.code, want.text)
	}
	_, err := c.ReadFile(within(t), "/etc/passwd", "nobody-here")
	wantError(t, err, models.Invalid, "nobody-here")
	// The body of a refused upload is not read to its end, or at all.
	_, err = c.WriteFile(within(t), dir, "", io.LimitReader(endless{}, 1<<40), unknownSize)
	wantError(t, err, models.Invalid, "is a directory")
	_, err = c.WriteFile(within(t), "x", "nobody-here", endless{}, unknownSize)
	wantError(t, err, models.Invalid, "nobody-here")
}

// endless is a reader without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestUserOfFiles(t *testing.T) {
	c := attach(t)
	path := filepath.Join(t.TempDir(), "file")
	if _, err := c.WriteFile(within(t), path, "nobody", strings.NewReader("x"), unknownSize); err != nil {
		t.Fatal(err)
	}
	if r := run(t, c, Command{Cmd: "stat", Args: []string{"-c", "%U %a", path}}); string(r.stdout) != "nobody 644\n" {
		t.Errorf("%q", r.stdout)
	}
}

// A reader that fails leaves nothing in the guest, and its error is the caller's to see.
func TestFailingSource(t *testing.T) {
	c := attach(t)
	path := filepath.Join(t.TempDir(), "file")
	broken := errors.New("broken source")
	_, err := c.WriteFile(within(t), path, "", io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), failing{broken}), unknownSize)
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	eventually(t, func() error { // also of temporary files
		entries, err := os.ReadDir(filepath.Dir(path))
		if err == nil && len(entries) > 0 {
			err = errors.New(entries[0].Name() + " is left")
		}
		return err
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestCancelledTransfers(t *testing.T) {
	c := attach(t)
	path := filepath.Join(t.TempDir(), "file")
	ctx, cancel := context.WithCancel(within(t))
	_, err := c.WriteFile(ctx, path, "", cancelling{cancel}, unknownSize)
	wantError(t, err, models.Unavailable, "cancelled")
	if err := os.WriteFile(path, make([]byte, 64<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(within(t))
	f, err := c.ReadFile(ctx, path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cancel()
	_, err = io.Copy(io.Discard, f)
	wantError(t, err, models.Unavailable, "cancelled")
}

// cancelling delivers data and ends the context.
type cancelling struct{ cancel context.CancelFunc }

func (c cancelling) Read(p []byte) (int, error) {
	c.cancel()
	return len(p), nil
}

// pattern delivers size bytes, none of whose parts repeat soon, and sums them up.
type pattern struct {
	left int64
	next uint32
	sum  hash.Hash
}

func (p *pattern) Read(buf []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(buf)), p.left))
	for i := range n {
		p.next = p.next*1664525 + 1013904223
		buf[i] = byte(p.next >> 24)
	}
	p.left -= int64(n)
	p.sum.Write(buf[:n])
	return n, nil
}

// A hundred megabytes go in and out; neither side holds more than a little of it.
func TestLargeFile(t *testing.T) {
	c := attach(t)
	const size = 100 << 20
	path := filepath.Join(t.TempDir(), "large")
	source := &pattern{left: size, sum: sha256.New()}
	peak := watchMemory(t)
	if info, err := c.WriteFile(within(t), path, "", source, unknownSize); err != nil || info.Size != size {
		t.Fatalf("%+v, %v", info, err)
	}
	f, err := c.ReadFile(within(t), path, "")
	if err != nil || f.Size != size {
		t.Fatalf("size %d, %v", f.Size, err)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if n, err := io.Copy(sum, f); err != nil || n != size || !bytes.Equal(sum.Sum(nil), source.sum.Sum(nil)) {
		t.Errorf("%d bytes, or others: %v", n, err)
	}
	if grown := peak(); grown > 32<<20 {
		t.Errorf("the host's heap grew by %d bytes", grown)
	}
	if resident := guestResident(t, c); resident > 64<<10 {
		t.Errorf("envd took %d KiB", resident)
	}
}

// watchMemory returns a function that says how much more heap the process obtained.
func watchMemory(t testing.TB) func() int64 {
	t.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	return func() int64 {
		runtime.ReadMemStats(&after)
		return int64(after.HeapSys) - int64(before.HeapSys)
	}
}

// guestResident returns the most memory that envd ever took, in KiB.
func guestResident(t testing.TB, c *Client) int {
	t.Helper()
	r := run(t, c, shell("grep VmHWM /proc/$PPID/status | tr -dc 0-9"))
	n := 0
	for _, digit := range r.stdout {
		n = 10*n + int(digit-'0')
	}
	if n == 0 {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	return n
}

func TestHostCalls(t *testing.T) {
	c := attach(t)
	health, err := c.Health(within(t))
	if err != nil || health.Version == "" {
		t.Errorf("%+v, %v", health, err)
	}
	m, err := c.Metrics(within(t))
	if err != nil || m.CPUCount < 1 || m.MemTotal == 0 || m.DiskTotal == 0 || m.Timestamp == 0 {
		t.Errorf("%+v, %v", m, err)
	}
	wantError(t, c.Shutdown(within(t)), models.Internal, "not the guest's PID 1")
	if err := c.Init(within(t), Init{Token: testToken + "2"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Metrics(within(t)); err != nil {
		t.Error(err)
	}
	old := attach(t)
	_, err = old.Metrics(within(t))
	wantError(t, err, models.Internal, "token")
	if err := c.Init(within(t), Init{Token: testToken}); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkUpload(b *testing.B)   { benchmarkFile(b, true) }
func BenchmarkDownload(b *testing.B) { benchmarkFile(b, false) }

func benchmarkFile(b *testing.B, upload bool) {
	c := attach(b)
	const size = 64 << 20
	path := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		if upload {
			if _, err := c.WriteFile(within(b), path, "", io.LimitReader(endless{}, size), unknownSize); err != nil {
				b.Fatal(err)
			}
			continue
		}
		f, err := c.ReadFile(within(b), path, "")
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, f); n != size || err != nil {
			b.Fatal(n, err)
		}
		_ = f.Close()
	}
}

// An upload goes out in full parts, however little its reader gives at a time, and what came before a failure goes too.
func TestUploadParts(t *testing.T) {
	for name, c := range map[string]struct {
		end  error
		want error
	}{"whole": {io.EOF, nil}, "broken": {errors.ErrUnsupported, errors.ErrUnsupported}} {
		t.Run(name, func(t *testing.T) {
			text := bytes.Repeat([]byte("0123456789"), uploadPart/4)
			body := io.MultiReader(iotest.HalfReader(bytes.NewReader(text)), iotest.ErrReader(c.end))
			s := &source{reader: body, watch: newWatchdog(time.Minute, func(error) {})}
			defer s.watch.stop()
			var parts pieces
			if n, err := s.WriteTo(&parts); n != int64(len(text)) || !errors.Is(err, c.want) {
				t.Errorf("%d bytes, %v", n, err)
			}
			if len(parts) != 3 || len(parts[0]) != uploadPart || len(parts[1]) != uploadPart || !bytes.Equal(bytes.Join(parts, nil), text) {
				t.Errorf("%d parts, the first of %d bytes", len(parts), len(parts[0]))
			}
		})
	}
}

// pieces keeps what each Write was given.
type pieces [][]byte

func (p *pieces) Write(b []byte) (int, error) {
	*p = append(*p, bytes.Clone(b))
	return len(b), nil
}
