package channel

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = 60 * time.Second

// relay is a virtio-serial port as QEMU makes it: the guest's end stays, one host at a
// time is plugged in, and what is under way when a host goes is cut anywhere and lost.
type relay struct {
	guest net.Conn // the guest's end
	qemu  net.Conn // the other end of that
	group sync.WaitGroup

	mu    sync.Mutex
	ready *sync.Cond
	host  net.Conn // QEMU's end of the connection of the host that is plugged in
	done  bool
}

func newRelay(t *testing.T) *relay {
	r := &relay{}
	r.ready = sync.NewCond(&r.mu)
	r.guest, r.qemu = connPair(t)
	r.group.Go(r.toHost)
	t.Cleanup(r.close)
	return r
}

// connPair returns the two ends of a connection with buffers, as between processes.
func connPair(t *testing.T) (net.Conn, net.Conn) {
	dir, err := os.MkdirTemp("", "wrenn-channel-") // shorter than t.TempDir, for the address
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	one, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = one.Close(), other.Close() })
	return one, other
}

func (r *relay) close() {
	r.mu.Lock()
	r.done = true
	if r.host != nil {
		_ = r.host.Close()
	}
	r.ready.Broadcast()
	r.mu.Unlock()
	_, _ = r.guest.Close(), r.qemu.Close()
	r.group.Wait()
}

// plug connects a new host and returns its end. It waits until the one before has gone.
func (r *relay) plug(t *testing.T) net.Conn {
	host, qemu := connPair(t)
	r.mu.Lock()
	for r.host != nil && !r.done {
		r.ready.Wait()
	}
	r.host = qemu
	r.ready.Broadcast()
	r.mu.Unlock()
	r.group.Go(func() {
		_, _ = io.Copy(r.qemu, qemu)
		_ = qemu.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.host = nil
		r.ready.Broadcast()
	})
	return host
}

// toHost moves what the guest writes. What comes while no host is there, or what a host
// that goes has not taken, is lost.
func (r *relay) toHost() {
	buf := make([]byte, 4096)
	for {
		n, err := r.qemu.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		host := r.host
		r.mu.Unlock()
		if host != nil {
			_, _ = host.Write(buf[:n])
		}
	}
}

// serveEcho runs the guest's side until the port fails: every stream echoes.
func serveEcho(r *relay) {
	guest := NewGuest(r.guest)
	for {
		session, err := guest.Accept(context.Background())
		if err != nil {
			return
		}
		mux, err := Server(session)
		if err != nil {
			return
		}
		r.group.Go(func() { echoStreams(mux) })
		<-session.Done()
		r.group.Go(func() { _ = mux.Close() })
	}
}

func echoStreams(mux interface{ Accept() (net.Conn, error) }) {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		stream, err := mux.Accept()
		if err != nil {
			return
		}
		group.Go(func() {
			defer func() { _ = stream.Close() }()
			port, err := ReadConnect(stream, patience)
			if err != nil {
				return
			}
			if port != 49983 {
				_ = Refuse(stream, "nobody listens on it")
				return
			}
			if Grant(stream, port) == nil {
				_, _ = io.Copy(stream, stream)
			}
		})
	}
}
