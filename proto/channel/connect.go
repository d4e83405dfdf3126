package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// maxLine bounds a line of the handshake, without its newline.
const maxLine = 255

// RefusedError is the guest's answer to a Connect that it does not grant.
type RefusedError struct {
	Port   uint32
	Reason string // the guest's words: for operators, not to be trusted
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the guest refused port %d: %s", e.Port, e.Reason)
}

// Connect asks the peer at the other end of conn for a port, and returns once it has
// agreed; what is then read from conn comes from that port. It is the handshake of
// Firecracker's vsock, "CONNECT <port>\n" answered by "OK <n>\n"; the guest's end of a
// multiplexed stream answers "ERR <text>\n" to a port that nobody listens on. After an
// error conn is the caller's to close.
func Connect(ctx context.Context, conn net.Conn, port uint32) error {
	undo := newLink(conn).interruptible(ctx)
	defer undo()
	err := connect(conn, port)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("connect to port %d of the guest: %w", port, err)
	}
	return nil
}

func connect(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line, err := readLine(conn)
	if err != nil {
		return err
	}
	answer, text, _ := strings.Cut(line, " ")
	if answer == "ERR" {
		return &RefusedError{Port: port, Reason: text}
	}
	if _, err := strconv.ParseUint(text, 10, 32); err != nil || answer != "OK" {
		return fmt.Errorf("unexpected answer %q", line)
	}
	return nil
}

// ReadConnect reads the peer's request for a port from a new stream. The answer is
// Grant's or Refuse's to give. It reads not a byte more than the request, and gives up
// after timeout.
func ReadConnect(conn net.Conn, timeout time.Duration) (uint32, error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	line, err := readLine(conn)
	if err != nil {
		return 0, fmt.Errorf("read the request for a port: %w", err)
	}
	text, ok := strings.CutPrefix(line, "CONNECT ")
	port, err := strconv.ParseUint(text, 10, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("unexpected request %q", line)
	}
	return uint32(port), conn.SetDeadline(time.Time{})
}

// Grant answers a request for a port with yes.
func Grant(conn net.Conn, port uint32) error {
	_, err := io.WriteString(conn, "OK "+strconv.FormatUint(uint64(port), 10)+"\n")
	return err
}

// Refuse answers a request for a port with no. The reason must be one short line.
func Refuse(conn net.Conn, reason string) error {
	_, err := io.WriteString(conn, "ERR "+reason+"\n")
	return err
}

// readLine reads up to a newline, byte by byte: what follows it belongs to someone else.
func readLine(r io.Reader) (string, error) {
	var line []byte
	next := make([]byte, 1)
	for len(line) <= maxLine {
		if _, err := io.ReadFull(r, next); errors.Is(err, io.EOF) {
			return "", io.ErrUnexpectedEOF
		} else if err != nil {
			return "", err
		}
		if next[0] == '\n' {
			return string(line), nil
		}
		line = append(line, next[0])
	}
	return "", fmt.Errorf("a line of more than %d bytes", maxLine)
}
