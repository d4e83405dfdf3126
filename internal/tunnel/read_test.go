package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// agentThatSends returns a tunnel whose agent has sent text after its opening, and the agent's end.
func agentThatSends(t *testing.T, text string) (*Conn, net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tunnel-") // t.TempDir may be too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	caller, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	agent, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Close() })
	if _, err := io.WriteString(agent, record(open, "")+text); err != nil {
		t.Fatal(err)
	}
	c, err := Open(context.Background(), caller, "sb-00000001")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Break)
	return c, agent
}

// wantPart is a Read with room for more that returns want and no error.
func wantPart(t *testing.T, c *Conn, want string) {
	t.Helper()
	p := make([]byte, len(want)+small)
	if n, err := c.Read(p); err != nil || string(p[:n]) != want {
		t.Fatalf("%d bytes were read, %v; want the %d that came", n, err, len(want))
	}
}

// A record that has come takes one Read, although its beginning came with its header. The next one is not touched.
func TestReadTakesAWholeRecord(t *testing.T) {
	big := strings.Repeat("0123456789", small)
	c, _ := agentThatSends(t, record(data, big)+record(data, "next"))
	wantPart(t, c, big)
	wantPart(t, c, "next")
}

// What came of a record is read even if its rest does not.
func TestReadOfACutRecord(t *testing.T) {
	cut := record(data, "whole")[:headerSize+2]
	t.Run("broken", func(t *testing.T) {
		c, agent := agentThatSends(t, cut)
		_ = agent.Close()
		wantPart(t, c, "wh")
		if _, err := c.Read(make([]byte, 1)); models.CodeOf(err) != models.Unavailable {
			t.Errorf("then %v", err)
		}
	})
	t.Run("late", func(t *testing.T) {
		c, agent := agentThatSends(t, cut)
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		wantPart(t, c, "wh")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("then %v", err)
		}
		_ = c.SetReadDeadline(time.Time{})
		if _, err := io.WriteString(agent, "ole"); err != nil {
			t.Fatal(err)
		}
		wantPart(t, c, "ole")
	})
}
