package channel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/yamux"
)

// sessions returns the two ends of a session over a connection without loss.
func sessions(t *testing.T) (host, guest *Session) {
	hostConn, guestConn := connPair(t)
	accepted := make(chan *Session, 1)
	go func() {
		session, _ := NewGuest(guestConn).Accept(limited(t))
		accepted <- session
	}()
	host, err := Host(limited(t), hostConn)
	if err != nil {
		t.Fatal(err)
	}
	return host, <-accepted
}

// A hostile guest speaks yamux without the limits of Server.
func TestHostileGuestIsCutOff(t *testing.T) {
	for name, attack := range map[string]func(*yamux.Session){
		"ping": func(s *yamux.Session) { _, _ = s.Ping() },
		"open": func(s *yamux.Session) { _, _ = s.Open() },
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := sessions(t)
			client, err := Client(host)
			if err != nil {
				t.Fatal(err)
			}
			hostile, err := yamux.Server(guest, config(guestLinger))
			if err != nil {
				t.Fatal(err)
			}
			go attack(hostile)
			<-client.CloseChan()
			if err := host.failure(); !errors.Is(err, ErrProtocol) {
				t.Errorf("the session ended with %v", err)
			}
			_ = hostile.Close()
		})
	}
}

// A guest that writes more than the window of a stream that nobody reads is cut off; no
// more than the window is held for it.
func TestGuestBeyondItsWindowIsCutOff(t *testing.T) {
	host, guest := sessions(t)
	client, err := Client(host)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	header := []byte{0, muxTypeData, 0, 0, 0, 0, 0, byte(stream.StreamID()), 0, 8, 0, 0} // 512 KiB
	go func() { _, _ = io.Copy(io.Discard, guest) }()
	for range 3 {
		if _, err := guest.Write(append(header, make([]byte, 512<<10)...)); err != nil {
			break
		}
	}
	<-client.CloseChan()
}

// yamux writes a header and its body one after the other; they travel in one frame.
func TestHeaderAndBodyShareAFrame(t *testing.T) {
	port := &script{}
	session := newSession(newLink(port), 9, true)
	conn := &muxConn{session: session}
	header := []byte{0, muxTypeData, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4}
	update := []byte{0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4}
	for _, b := range [][]byte{update, header, []byte("body"), update} {
		if n, err := conn.Write(b); n != len(b) || err != nil {
			t.Fatalf("wrote %d of %d bytes, %v", n, len(b), err)
		}
	}
	want := dataFrame(9, update)
	want = append(want, dataFrame(9, append(bytes.Clone(header), "body"...))...)
	want = append(want, dataFrame(9, update)...)
	if got := port.output.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("wrote %x, want %x", got, want)
	}
}

func TestConnectIsRefused(t *testing.T) {
	mux := begin(t, newEcho(t))
	stream, err := mux.Open()
	if err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if err := Connect(limited(t), stream, 22); !errors.As(err, &refused) || refused.Port != 22 || refused.Reason == "" {
		t.Errorf("error %v", err)
	}
}

func TestConnectRefusesNonsense(t *testing.T) {
	for _, reply := range []string{"", "OK", "OK x\n", "OK -1\n", "HELLO 1\n", "\n", strings.Repeat("a", 1000)} {
		host, guest := net.Pipe()
		go func() {
			_, _ = readLine(guest)
			_, _ = io.WriteString(guest, reply)
			_ = guest.Close()
		}()
		var refused *RefusedError
		if err := Connect(limited(t), host, 49983); err == nil || errors.As(err, &refused) {
			t.Errorf("answer %q: %v", reply, err)
		}
		_ = host.Close()
	}
}

func TestReadConnectRefusesNonsense(t *testing.T) {
	for _, request := range []string{"", "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", "GET / HTTP/1.1\r\n", strings.Repeat("a", 1000)} {
		host, guest := net.Pipe()
		go func() {
			_, _ = io.WriteString(host, request)
			_ = host.Close()
		}()
		if port, err := ReadConnect(guest, patience); err == nil {
			t.Errorf("request %q: port %d", request, port)
		}
		_ = guest.Close()
	}
}

// What follows the request in the same write is left to who serves the port.
func TestReadConnectTakesNoMore(t *testing.T) {
	host, guest := net.Pipe()
	defer func() { _, _ = host.Close(), guest.Close() }()
	go func() { _, _ = io.WriteString(host, "CONNECT 49983\nGET / HTTP/1.1") }()
	port, err := ReadConnect(guest, patience)
	if err != nil || port != 49983 {
		t.Fatalf("port %d, %v", port, err)
	}
	rest := make([]byte, len("GET / HTTP/1.1"))
	if _, err := io.ReadFull(guest, rest); err != nil || string(rest) != "GET / HTTP/1.1" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

// FuzzClient: whatever a guest sends within a session, the host's multiplexer neither panics nor outlives it, and a stream holds no more
// than its window.
func FuzzClient(f *testing.F) {
	update := []byte{0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4} // window update, ACK
	f.Add(update)
	f.Add(append(bytes.Clone(update), 0, muxTypeData, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 'b', 'o', 'd', 'y'))
	f.Add([]byte{0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}) // go away
	f.Add([]byte{0, muxTypeData, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, said []byte) {
		conn, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		host := newSession(newLink(conn), 9, false)
		client, err := Client(host)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		stream, err := client.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer func() { _ = theirs.Close() }()
			for part := range slices.Chunk(said, MaxPayload) {
				if _, err := theirs.Write(dataFrame(9, part)); err != nil {
					return
				}
			}
		}()
		if n, _ := io.Copy(io.Discard, stream); n > int64(len(said)) {
			t.Errorf("%d bytes came out of %d", n, len(said))
		}
		<-client.CloseChan()
	})
}
