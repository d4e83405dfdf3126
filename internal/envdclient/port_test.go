package envdclient

import (
	"errors"
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

// Either side ends its sending alone, whichever is first.
func TestDialPortHalves(t *testing.T) {
	serve := func(handle func(*net.TCPConn)) *PortConn {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer func() { _ = l.Close() }()
			if conn, err := l.Accept(); err == nil {
				handle(conn.(*net.TCPConn))
			}
		}()
		conn, err := attach(t).DialPort(within(t), l.Addr().(*net.TCPAddr).Port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	}
	ask := serve(func(conn *net.TCPConn) {
		defer func() { _ = conn.Close() }()
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(all)
	})
	_, _ = io.WriteString(ask, "question")
	if err := ask.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(ask); string(got) != "question" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	heard := make(chan string, 1)
	hear := serve(func(conn *net.TCPConn) {
		defer func() { _ = conn.Close() }()
		_ = conn.CloseWrite()
		all, _ := io.ReadAll(conn)
		heard <- string(all)
	})
	if n, err := hear.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the server's end: %d, %v", n, err)
	}
	_, _ = io.WriteString(hear, "late")
	_ = hear.CloseWrite()
	if got := <-heard; got != "late" {
		t.Errorf("the server heard %q", got)
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
