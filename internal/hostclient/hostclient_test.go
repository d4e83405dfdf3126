package hostclient_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const sb = "sb-00000001"

func dial(t *testing.T) (*hostclient.Client, *hostsim.Host) {
	t.Helper()
	sim := hostsim.Start(t)
	c, err := hostclient.Dial(sim.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, sim
}

// running returns a client of a host with one sandbox.
func running(t *testing.T) (*hostclient.Client, *hostsim.Host) {
	t.Helper()
	c, sim := dial(t)
	made, err := c.Create(t.Context(), hostclient.NewSandbox{ID: sb, Template: "minimal", Size: models.Size{VCPUs: 1, MemoryMiB: 256}})
	if err != nil || made.ID != sb || made.State != hostclient.Running || len(made.Steps) != 1 || made.CreatedAt.IsZero() {
		t.Fatalf("Create = %+v, %v", made, err)
	}
	return c, sim
}

func TestSandbox(t *testing.T) {
	c, sim := running(t)
	if got, err := c.Sandbox(t.Context(), sb); err != nil || got.State != hostclient.Running {
		t.Errorf("Sandbox = %+v, %v", got, err)
	}
	sim.Put(sb, pb.SandboxState_SANDBOX_STATE_FAILED, "panic")
	if got, err := c.Sandbox(t.Context(), sb); err != nil || got.State != hostclient.Failed || got.Reason != "panic" {
		t.Errorf("Sandbox = %+v, %v", got, err)
	}
	for range 2 {
		if err := c.Destroy(t.Context(), sb, time.Second); err != nil {
			t.Error(err)
		}
	}
	_, err := c.Sandbox(t.Context(), sb)
	if models.CodeOf(err) != models.NotFound || !grpcerr.FromAgent(err) {
		t.Errorf("Sandbox of what is gone: %v", err)
	}
	sim.Kill()
	_, err = c.Sandbox(t.Context(), sb)
	if models.CodeOf(err) != models.Unavailable || grpcerr.FromAgent(err) {
		t.Errorf("Sandbox without an agent: %v", err)
	}
}

func TestInfo(t *testing.T) {
	c, sim := dial(t)
	info, err := c.Info(t.Context())
	if err != nil || info.ID != "host-0000abcd" || len(info.Templates) != 2 || info.Templates[0].Default.DiskMiB != 1024 {
		t.Errorf("Info = %+v, %v", info, err)
	}
	sim.Describe(func(i *pb.GetHostInfoResponse) { i.HostId = "../x" })
	if _, err := c.Info(t.Context()); err == nil {
		t.Error("a host with a malformed id was taken")
	}
}

func TestWatch(t *testing.T) {
	c, sim := running(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, synced, err := w.Next(); err != nil || synced || got.ID != sb {
		t.Errorf("first %+v, %v, %v", got, synced, err)
	}
	if _, synced, err := w.Next(); err != nil || !synced {
		t.Errorf("second: synced %v, %v", synced, err)
	}
	sim.Lose(sb, false)
	if got, synced, err := w.Next(); err != nil || synced || got.State != hostclient.Gone {
		t.Errorf("third %+v, %v, %v", got, synced, err)
	}
	sim.Kill()
	if _, _, err := w.Next(); err == nil {
		t.Error("a watch outlives its agent")
	}
}

func TestExec(t *testing.T) {
	c, sim := running(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in := bytes.Repeat([]byte("0123456789"), 100_000)
	p, err := c.Exec(ctx, hostclient.ExecStart{Sandbox: sb, Command: "cat", Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for {
		o, err := p.Next()
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, o.Stdout...); o.Exit != nil {
			break
		}
	}
	cancel()
	p.Wait()
	if !bytes.Equal(out, in) {
		t.Errorf("%d bytes came back of %d", len(out), len(in))
	}
	if _, err := c.Exec(t.Context(), hostclient.ExecStart{Sandbox: sb, Command: "nope"}); models.CodeOf(err) != models.Invalid {
		t.Errorf("a command that does not exist: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	if p, err = c.Exec(ctx, hostclient.ExecStart{Sandbox: sb, Command: "sleep"}); err != nil {
		t.Fatal(err)
	}
	sim.Kill()
	if _, err := p.Next(); models.CodeOf(err) != models.Unavailable {
		t.Errorf("the agent's end during a program: %v", err)
	}
	cancel()
	p.Wait()
}

func TestFiles(t *testing.T) {
	c, sim := running(t)
	content := bytes.Repeat([]byte("x"), 700_000)
	ref := hostclient.FileRef{Sandbox: sb, Path: "/a"}
	// A source that gives a byte at a time, and one that ends with data.
	for _, source := range []io.Reader{iotest.HalfReader(bytes.NewReader(content)), iotest.DataErrReader(bytes.NewReader(content))} {
		if info, err := c.WriteFile(t.Context(), ref, source); err != nil || info.Size != int64(len(content)) {
			t.Fatalf("WriteFile = %+v, %v", info, err)
		}
		f, err := c.ReadFile(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, content) || f.Size != int64(len(content)) {
			t.Errorf("read %d of %d bytes, %v", len(got), f.Size, err)
		}
	}
	if _, err := c.ReadFile(t.Context(), hostclient.FileRef{Sandbox: sb, Path: "/nope"}); models.CodeOf(err) != models.NotFound {
		t.Errorf("a file that does not exist: %v", err)
	}
	if _, err := c.WriteFile(t.Context(), hostclient.FileRef{Sandbox: sb, Path: hostsim.Full}, bytes.NewReader(content)); models.CodeOf(err) != models.Exhausted {
		t.Errorf("a full disk: %v", err)
	}
	if _, ok := sim.File(hostsim.Full); ok {
		t.Error("a refused file was written")
	}
}

// TestBrokenSourceWritesNothing: also when the source breaks off with the error that
// io.ReadFull has for an early end.
func TestBrokenSourceWritesNothing(t *testing.T) {
	c, sim := running(t)
	for _, broken := range []error{io.ErrUnexpectedEOF, errors.New("disk error"), context.Canceled} {
		source := io.MultiReader(bytes.NewReader(make([]byte, 500_000)), iotest.ErrReader(broken))
		_, err := c.WriteFile(t.Context(), hostclient.FileRef{Sandbox: sb, Path: "/b"}, source)
		var fault *hostclient.SourceError
		if !errors.As(err, &fault) || !errors.Is(err, broken) {
			t.Errorf("%v: WriteFile = %v", broken, err)
		}
	}
	time.Sleep(20 * time.Millisecond) // for what might still arrive
	if _, ok := sim.File("/b"); ok {
		t.Error("a part of a file was written")
	}
}
