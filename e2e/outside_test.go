package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// probePort is where all servers of a test of isolation listen.
const probePort = 7777

// outside notes every token (probe-…-) that reaches it, however it is wrapped, and every one that reaches a program on the host.
type outside struct {
	mu   sync.Mutex
	text strings.Builder
}

var tokenForm = regexp.MustCompile(`probe-[a-z0-9]+-`)

func (o *outside) note(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, token := range tokenForm.FindAll(b, -1) {
		o.text.Write(append(token, '\n'))
	}
}

func (o *outside) seen() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// newOutside gives the platform an uplink to an outside, with a server of TCP, and puts servers on the host. All of it ends with the test.
func newOutside(t *testing.T, p *platform) *outside {
	t.Helper()
	peer, o := p.uplink(), &outside{}
	err := netns.Do(peer, func() error {
		if err := o.sniff(t, "peer"); err != nil {
			return err
		}
		return o.serve(t, false)
	})
	if err == nil {
		err = netns.Do(p.netns, func() error { return o.serve(t, true) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// sniff looks at all frames that come in by a device of the calling thread's namespace.
func (o *outside) sniff(t *testing.T, device string) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(netOrder(unix.ETH_P_ALL)))
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(device)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: netOrder(unix.ETH_P_ALL), Ifindex: link.Attrs().Index})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", device, err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-ended; _ = unix.Close(fd) })
	go func() {
		defer close(ended)
		buf := make([]byte, 64<<10)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, _, err := unix.Recvfrom(fd, buf, 0); err == nil {
				o.note(buf[:n])
			}
		}
	}()
	return nil
}

// netOrder is htons(3).
func netOrder(n uint16) uint16 { return n<<8 | n>>8 }

// serve takes connections, and with witness notes what comes by them and by UDP: on the host only what programs get counts.
func (o *outside) serve(t *testing.T, witness bool) error {
	address := fmt.Sprintf(":%d", probePort)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			if n, err := conn.Read(buf); err == nil && witness {
				o.note(buf[:n])
			}
			_ = conn.Close()
		}
	})
	if !witness {
		return nil
	}
	packets, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", address)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = packets.Close() })
	serving.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, _, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			o.note(buf[:n])
		}
	})
	return nil
}

// sendUDP sends from the calling thread's namespace.
func sendUDP(ctx context.Context, to netip.Addr, text string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(to, probePort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(text))
	return err
}
