package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// Ports in the namespaces.
const (
	replicaPort = 8000 // of the first
	agentPort   = 9000
)

// ends are the addresses of the two ends of a host's link, of a /30 of 192.0.2.0/24 (RFC 5737).
func ends(host int) (replicas, agent string) {
	return fmt.Sprintf("192.0.2.%d", 4*host+1), fmt.Sprintf("192.0.2.%d", 4*host+2)
}

// link makes the namespaces and the links between that of the replicas and each host's.
func (c *Cluster) link() error {
	if err := netns.Create(c.netns()); err != nil {
		return err
	}
	for i := range c.Hosts {
		if err := netns.Create(c.HostNetns(i)); err != nil {
			return err
		}
		if err := c.linkHost(i); err != nil {
			return fmt.Errorf("link host %d: %w", i, err)
		}
	}
	return nil
}

func (c *Cluster) linkHost(host int) error {
	there, err := netns.Open(c.HostNetns(host))
	if err != nil {
		return err
	}
	defer there.Close()
	ours, theirs := ends(host)
	name := fmt.Sprintf("host-%d", host)
	err = netns.Do(c.netns(), func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "control", PeerNamespace: netlink.NsFd(there.FD())}
		return errors.Join(netlink.LinkAdd(veth), turnOn(name, ours))
	})
	if err != nil {
		return err
	}
	return there.Do(func() error { return turnOn("control", theirs) })
}

// turnOn gives a device its address and sets it up.
func turnOn(device, address string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	addr, err := netlink.ParseAddr(address + "/30")
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
}

// forward carries connections from a port of this machine to one in a namespace.
type forward struct {
	ln    net.Listener
	netns string
	to    string
	life  context.Context // until close
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex // guards what follows
	ended bool
	conns map[net.Conn]bool
}

func newForward(ctx context.Context, address, namespace, to string) (*forward, error) {
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	f := &forward{ln: ln, netns: namespace, to: to, conns: map[net.Conn]bool{}}
	f.life, f.end = context.WithCancel(context.WithoutCancel(ctx))
	f.wg.Go(f.accept)
	return f, nil
}

func (f *forward) address() string { return f.ln.Addr().String() }

func (f *forward) accept() {
	for {
		conn, err := f.ln.Accept()
		if err != nil {
			return // it is closed
		}
		f.wg.Go(func() { f.carry(conn) })
	}
}

// carry moves bytes both ways, and each end.
func (f *forward) carry(conn net.Conn) {
	defer f.drop(conn)
	var there net.Conn
	err := netns.Do(f.netns, func() (err error) {
		there, err = (&net.Dialer{}).DialContext(f.life, "tcp", f.to)
		return err
	})
	if err != nil || !f.hold(conn, there) {
		return
	}
	defer f.drop(there)
	var both sync.WaitGroup
	both.Go(func() { pass(there, conn) })
	both.Go(func() { pass(conn, there) })
	both.Wait()
}

func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // how it ended the other end sees
	if half, is := to.(*net.TCPConn); is {
		_ = half.CloseWrite()
	}
}

// hold has close end the connections, unless it has been called.
func (f *forward) hold(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		f.conns[c] = true
		if f.ended {
			_ = c.Close()
		}
	}
	return !f.ended
}

func (f *forward) drop(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, conn)
	_ = conn.Close() // nothing more is expected of it
}

func (f *forward) close() {
	_ = f.ln.Close() // accept ends
	f.end()
	f.mu.Lock()
	f.ended = true
	for c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}
