package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/proto/channel"
	"golang.org/x/sys/unix"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = 60 * time.Second

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// connPair returns the two ends of a connection with buffers.
func connPair(t *testing.T) (net.Conn, net.Conn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	one, err := net.Dial("tcp", listener.Addr().String())
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

// serial returns a listener over a port, and the port's other end.
func serial(t *testing.T) (net.Listener, net.Conn) {
	host, guest := connPair(t)
	listener := newSerial(Port, func(context.Context) (carrier, error) { return guest, nil })
	t.Cleanup(func() { _ = listener.Close() })
	return listener, host
}

func dial(t *testing.T, host net.Conn, port uint32) (net.Conn, error) {
	t.Helper()
	session, err := channel.Host(limited(t), host)
	if err != nil {
		t.Fatal(err)
	}
	mux, err := channel.Client(session)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := mux.Open()
	if err != nil {
		t.Fatal(err)
	}
	return stream, channel.Connect(limited(t), stream, port)
}

func TestSerialHandsOutStreams(t *testing.T) {
	listener, host := serial(t)
	stream, err := dial(t, host, Port)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stream, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestSerialRefusesOtherPorts(t *testing.T) {
	_, host := serial(t)
	_, err := dial(t, host, 22)
	var refused *channel.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "22") {
		t.Errorf("error %v", err)
	}
}

// A new session ends the streams of the one before, also of a host that did not go.
func TestSerialNextSessionEndsOldStreams(t *testing.T) {
	listener, host := serial(t)
	if _, err := dial(t, host, Port); err != nil {
		t.Fatal(err)
	}
	old, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	second := secondHost{Conn: host, over: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		_, err := channel.Host(limited(t), second)
		ended <- err
	}()
	if _, err := old.Read(make([]byte, 1)); err == nil {
		t.Error("the old stream still reads")
	}
	close(second.over)
	if err := <-ended; !errors.Is(err, errNotTheReader) {
		t.Errorf("the second host: %v", err)
	}
}

// secondHost writes to the port, too; the answers go to the first host, which reads.
type secondHost struct {
	net.Conn
	over chan struct{}
}

var errNotTheReader = errors.New("another host reads")

func (s secondHost) Read([]byte) (int, error) {
	<-s.over
	return 0, errNotTheReader
}

// SetReadDeadline leaves the first host's reads alone.
func (s secondHost) SetReadDeadline(time.Time) error { return nil }

// A hang-up ends the streams in the guest alone; the next host gets a session, which an old hang-up does not end.
func TestSerialHangup(t *testing.T) {
	listener, host := serial(t)
	guest := listener.(*serialListener)
	guest.Hangup()() // without a session
	var over []func()
	for range 3 {
		stream, err := dial(t, visit{host}, Port)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range over {
			end()
		}
		if _, err := io.WriteString(stream, "ping"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Fatalf("in a session that nobody hung up: %v", err)
		}
		over = append(over, guest.Hangup())
		guest.Hangup()()
		if !ends(t, conn, patience) {
			t.Fatal("it outlives a hang-up")
		}
		if ends(t, stream, 20*time.Millisecond) {
			t.Error("the host is told")
		}
		leave(t, host, stream)
	}
}

// visit is a host's connection to a port that stays when the host goes.
type visit struct{ net.Conn }

func (visit) Close() error { return nil }

// leave ends a visit, which says nothing to the guest, and returns when nobody reads the port any more.
func leave(t *testing.T, host, stream net.Conn) {
	t.Helper()
	if err := host.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if !ends(t, stream, patience) {
		t.Fatal("the host has not left")
	}
}

// ends reports whether a connection on which nothing comes ends within a time.
func ends(t *testing.T, conn net.Conn, within time.Duration) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || err == nil {
		t.Fatalf("%d bytes came, %v", n, err)
	}
	var late net.Error
	return !errors.As(err, &late) || !late.Timeout()
}

func TestSerialCloses(t *testing.T) {
	listener, host := serial(t)
	if _, err := dial(t, host, Port); err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}

// The failure of the port reaches who accepts.
func TestSerialPortFails(t *testing.T) {
	listener, host := serial(t)
	_ = host.Close()
	if conn, err := listener.Accept(); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("accepted %v, %v", conn, err)
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for node, name := range map[string]string{"vport0p0": "", "vport1p1": "org.qemu.guest_agent.0\n", "vport1p2": PortName + "\n"} {
		if err := os.Mkdir(filepath.Join(class, node), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, node, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if node, err := findPort(class, PortName); node != "vport1p2" || err != nil {
		t.Errorf("found %q, %v", node, err)
	}
	if node, err := findPort(class, "other"); err == nil {
		t.Errorf("found %q", node)
	}
}

func TestOpenPortGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if port, err := openPort(ctx, "wrenn.no-such-port"); err == nil {
		t.Errorf("opened %v", port)
	}
}

func TestUnknownTransport(t *testing.T) {
	if _, err := New("pigeon"); err == nil {
		t.Error("no error")
	}
}

// vsock is tested over the kernel's loopback transport, where the peer is not the host.
func TestVsock(t *testing.T) {
	const port = 0xfff0_0001
	for _, test := range []struct {
		name     string
		allowed  uint32
		accepted bool
	}{{"from the host", unix.VMADDR_CID_LOCAL, true}, {"from the guest", unix.VMADDR_CID_HOST, false}} {
		t.Run(test.name, func(t *testing.T) {
			listener, err := listenVsock(port, test.allowed)
			if err != nil {
				testlane.Missing(t, "vsock: "+err.Error())
			}
			defer func() { _ = listener.Close() }()
			go echo(listener)
			got, err := talkVsock(port)
			if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, unix.EAGAIN) {
				// A kernel module, which no package brings: not a lane that can be made mandatory.
				t.Skip("skipped: the kernel has no vsock loopback transport (modprobe vsock_loopback)")
			}
			if test.accepted != (got == "ping" && err == nil) {
				t.Errorf("answer %q, %v", got, err)
			}
		})
	}
}

func echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}
}

// talkVsock sends a word to the loopback port and reads the answer.
func talkVsock(port uint32) (string, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "client")
	defer func() { _ = file.Close() }()
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port}); err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	conn := &vsockConn{File: file}
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	got, err := io.ReadAll(conn)
	return string(got), err
}

func TestVsockCloseEndsAccept(t *testing.T) {
	listener, err := listenVsock(0xfff0_0002, unix.VMADDR_CID_HOST)
	if err != nil {
		testlane.Missing(t, "vsock: "+err.Error())
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := listener.Accept()
		accepted <- err
	}()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept ended with %v", err)
	}
}
