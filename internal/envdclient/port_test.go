package envdclient

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// echo is a server in the "guest". It returns its port.
func echo(t *testing.T, address string) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err) // no IPv6
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "hello ")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func TestDialPort(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			c := attach(t)
			conn, err := c.DialPort(within(t), echo(t, address))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			want := strings.Repeat("0123456789", 1<<18)
			go func() { _, _ = io.WriteString(conn, want) }()
			got := make([]byte, len("hello ")+len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello "+want {
				t.Errorf("%v", err)
			}
			c.Close() // the end of the client is the connection's
			if _, err := conn.Read(got); err == nil {
				t.Error("the connection outlives its client")
			}
			_ = conn.Close()
		})
	}
}

func TestDialPortErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	_, err = attach(t).DialPort(within(t), closed)
	wantError(t, err, models.Precondition, "is not open in the sandbox")
	for _, port := range []int{-1, 0, 65536} {
		_, err = attach(t).DialPort(within(t), port)
		wantError(t, err, models.Invalid, "65535")
	}
	c := New(dialTCP(guest), "wrong")
	defer c.Close()
	_, err = c.DialPort(within(t), echo(t, "127.0.0.1:0"))
	wantError(t, err, models.Internal, "access token")
}
