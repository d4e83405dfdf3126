package network_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// flood sends numbered datagrams to an address until it is stopped, all from one port, so that they are one connection.
type flood struct {
	next atomic.Uint64 // number of the datagram to come
	stop chan struct{}
	done sync.WaitGroup
}

func (g *guest) flood(to string) *flood {
	f := &flood{stop: make(chan struct{})}
	f.done.Go(func() {
		for {
			select {
			case <-f.stop:
				return
			default:
			}
			number := binary.BigEndian.AppendUint64(nil, f.next.Add(1)-1)
			g.say(to, string(number))
		}
	})
	g.Cleanup(f.end)
	return f
}

func (f *flood) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.done.Wait()
}

// passed waits until n more have been sent, and returns the number of the next.
func (f *flood) passed(n uint64) uint64 {
	for begin := f.next.Load(); f.next.Load() < begin+n; {
		time.Sleep(time.Millisecond)
	}
	return f.next.Load()
}

// received collects the numbers that arrive at a socket.
type received struct {
	mu      sync.Mutex
	numbers []uint64
}

func (w *world) collect(conn *net.UDPConn) *received {
	r := &received{}
	go func() { // ends when the socket is closed
		for buffer := make([]byte, 64); ; {
			n, _, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			if n == 8 {
				r.mu.Lock()
				r.numbers = append(r.numbers, binary.BigEndian.Uint64(buffer))
				r.mu.Unlock()
			}
		}
	}()
	return r
}

// between counts the numbers in an interval.
func (r *received) between(from, to uint64) (count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.numbers {
		if from <= n && n < to {
			count++
		}
	}
	return count
}

// all are the numbers so far.
func (r *received) all() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.numbers)
}

// A guest floods while its policy flips. What it sends after the policy has closed and before it opens again
// never arrives, though it belongs to a connection that was open; what it sends while it is open does.
func TestFloodWhilePolicyFlips(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	unlimited := network.Limits{Packets: 1e6, UploadBytes: 1e9}
	g := w.bootWith(n, alice, network.Policy{Limits: unlimited})
	peer := w.listen(w.peer, peerAddress+":7000")
	got := w.collect(peer)
	f := g.flood(peerAddress + ":7000")
	// A packet has its number before it is sent: the last one may have been sent later.
	closed := [][2]uint64{{0, f.passed(50) - 1}}
	for range 20 {
		w.must(n.SetPolicy(t.Context(), alice, network.Policy{Internet: true, Limits: unlimited}))
		from := f.next.Load()
		f.passed(100)
		w.must(n.SetPolicy(t.Context(), alice, network.Policy{Deny: prefixes(peerAddress + "/32"), Internet: true, Limits: unlimited}))
		closed = append(closed, [2]uint64{f.next.Load(), f.passed(50) - 1})
		w.eventually("the flood passes while the policy is open", func() bool { return got.between(from, math.MaxUint64) > 0 })
	}
	f.end()
	for _, interval := range closed {
		if count := got.between(interval[0], interval[1]); count > 0 {
			t.Errorf("%d packets passed while the policy was closed, from number %d on", count, interval[0])
		}
	}
}

// A guest that floods from the first moment of its TAP has its policy then, by IPv4 and IPv6.
func TestPolicyHoldsFromTheStart(t *testing.T) {
	w, n := newIPv6World(t)
	got := w.collect(w.hear())
	for range 10 {
		slot, err := n.Reserve(t.Context())
		w.must(err)
		stop := make(chan struct{})
		var early sync.WaitGroup
		early.Go(func() { w.floodAsSoonAs(network.TAPName(alice), slot, stop) })
		_, err = n.Attach(t.Context(), alice, slot, network.Policy{IPv6: true})
		w.must(err)
		w.eventually("the flood comes, and is refused by the policy", func() bool {
			c, err := n.Counters(alice)
			w.must(err)
			return c.Refused["internet"] > 10
		})
		close(stop)
		early.Wait()
		w.must(n.Detach(t.Context(), alice))
		n.Release(slot)
	}
	if count := got.between(0, 1); count > 0 {
		t.Errorf("%d packets passed a policy that allows nothing", count)
	}
}

// floodAsSoonAs opens a TAP when it appears and floods, as a VMM that was quicker than it should be.
func (w *world) floodAsSoonAs(name string, slot network.Slot, stop <-chan struct{}) {
	var fd int
	err := netns.Do(w.host, func() (err error) {
		for fd, err = openTAP(name); err != nil; fd, err = openTAP(name) {
			select {
			case <-stop:
				return err
			default:
			}
		}
		return nil
	})
	if err != nil {
		w.Errorf("open %s: %v", name, err)
		return
	}
	defer unix.Close(fd)
	g := &guest{world: w, link: network.Link{MAC: network.GuestMAC(alice), Guest: slot.Guest, IPv6: slot.IPv6}}
	frame := func(kind uint16, packet []byte) []byte {
		header := append(append(append([]byte(nil), vnetHeader...), 0x02, 'W', 'R', 'E', 'N', 'N'), g.link.MAC...)
		return append(binary.BigEndian.AppendUint16(header, kind), packet...)
	}
	datagram := packet{to: netip.MustParseAddr(peerAddress), protocol: unix.IPPROTO_UDP, payload: udp(7000, "\x00\x00\x00\x00\x00\x00\x00\x00")}
	byIPv4 := frame(unix.ETH_P_IP, g.encode(datagram))
	datagram.to = netip.MustParseAddr(peerIPv6)
	byIPv6 := frame(unix.ETH_P_IPV6, g.encodeIPv6(datagram))
	for {
		select {
		case <-stop:
			return
		default:
			_, _ = unix.Write(fd, byIPv4) // down at first
			_, _ = unix.Write(fd, byIPv6)
		}
	}
}

// openTAP opens a TAP that exists: a name that does not is not made.
func openTAP(name string) (int, error) {
	if _, err := net.InterfaceByName(name); err != nil {
		return 0, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// flipper, when set, makes the test binary a host agent that changes alice's policy until it is killed: between two
// policies, both of which allow the peer and deny its other address.
const flipper = "WRENN_TEST_FLIPPER"

func TestMain(m *testing.M) {
	if slot := os.Getenv(flipper); slot != "" {
		os.Exit(flip(slot))
	}
	os.Exit(m.Run())
}

// unbounded is more than a test sends. What nobody has answered is a new connection whenever it is judged anew.
var unbounded = network.Limits{Packets: 1e6, UploadBytes: 1e9, NewConnections: 1e6}

var flipped = []network.Policy{
	{Internet: true, Deny: prefixes(farAddress + "/32"), Limits: unbounded},
	{Allow: prefixes("192.0.2.0/24"), Limits: unbounded},
}

// The flipper tells its parent what it begins, on its standard output.
const (
	opens   = "o"
	changes = "c"
)

func flip(slot string) int {
	ctx := context.Background()
	os.Stdout.WriteString(opens)
	index, err := strconv.Atoi(slot)
	if err != nil {
		return 2
	}
	n, err := network.Open(ctx, network.Config{})
	if err != nil {
		return 3
	}
	taken, err := n.Take(index)
	if err != nil {
		return 4
	}
	for i := 0; ; i++ {
		os.Stdout.WriteString(changes)
		if _, err := n.Attach(ctx, alice, taken, flipped[i%2]); err != nil {
			return 5
		}
		if err := n.SetPolicy(ctx, alice, flipped[(i+1)%2]); err != nil {
			return 6
		}
	}
}

// The agent is killed again and again at random moments of all that it does: opening the network, and changing a policy. What
// both policies deny never passes. What both allow is not interrupted: a packet may meet the change itself and be lost, its
// neighbours are not. And who comes next can go on from what there is.
func TestAgentKilledWhilePolicyFlips(t *testing.T) {
	w := newWorld(t)
	w.widen()
	n := w.open("")
	g := w.bootWith(n, alice, flipped[0])
	w.must(n.Close(t.Context(), false))
	good, bad := w.listen(w.peer, peerAddress+":7000"), w.listen(w.peer, farAddress+":7000")
	w.must(roomy(good))
	allowed, deniedPeer := w.collect(good), w.collect(bad)
	stop, sent := make(chan struct{}), make(chan uint64)
	go func() { sent <- g.alternate(peerAddress+":7000", farAddress+":7000", stop) }()
	opening := w.killFlipper(g, opens, 0, true)
	changing := w.killFlipper(g, changes, 0, true)
	for range 8 {
		w.killFlipper(g, opens, opening, false)
	}
	for range 12 {
		w.killFlipper(g, changes, 2*changing, false)
	}
	close(stop)
	count := <-sent
	w.eventually("the last packet has arrived", func() bool { return allowed.between(count-1, count) == 1 })
	if passed := deniedPeer.between(0, count); passed > 0 {
		t.Errorf("%d of %d packets passed both policies", passed, count)
	}
	second := w.open("")
	taken, err := second.Take(g.link.Index)
	w.must(err)
	_, err = second.Attach(t.Context(), alice, taken, network.Policy{})
	w.must(err)
	arrived := make([]bool, count)
	for _, number := range allowed.all() {
		arrived[number] = true
	}
	lost := 0
	for i, one := range arrived {
		if one {
			continue
		}
		lost++
		if i > 0 && !arrived[i-1] {
			t.Fatalf("of %d packets number %d and the one before did not pass what both policies allow; refused: %v", count, i, refused(t, second, g))
		}
	}
	t.Logf("%d packets, %d lost; opening takes %s, a change %s", count, lost, opening, changing)
	w.wantExact(second)
	refusedBefore := refused(t, second, g)["internet"]
	g.say(peerAddress+":7000", "closed now")
	w.eventually("the new policy holds", func() bool { return refused(t, second, g)["internet"] == refusedBefore+1 })
}

// killFlipper starts a flipper and kills it at a random moment of the time that it may take from when it has begun something.
// With measure it waits until it is done with that, and returns how long it took.
func (w *world) killFlipper(g *guest, what string, within time.Duration, measure bool) time.Duration {
	w.Helper()
	agent := exec.Command(os.Args[0], "-test.run=^$")
	agent.Env = append(os.Environ(), flipper+"="+strconv.Itoa(g.link.Index))
	out, err := agent.StdoutPipe()
	w.must(err)
	w.must(netns.Start(w.host, agent))
	told := make([]byte, 1)
	for string(told) != what {
		if _, err := out.Read(told); err != nil {
			w.Fatalf("the agent ended by itself: %v", agent.Wait())
		}
	}
	begin := time.Now()
	if measure {
		_, err = out.Read(told)
		w.must(err)
	} else {
		time.Sleep(rand.N(within))
	}
	took := time.Since(begin)
	w.must(agent.Process.Kill())
	if err := agent.Wait(); agent.ProcessState.Exited() {
		w.Fatalf("the agent ended by itself: %v", err)
	}
	return took
}

// alternate sends the same numbers to two addresses by turns until it is stopped, and returns how many.
func (g *guest) alternate(one, two string, stop <-chan struct{}) (count uint64) {
	for ; ; time.Sleep(50 * time.Microsecond) {
		select {
		case <-stop:
			return count
		default:
		}
		number := string(binary.BigEndian.AppendUint64(nil, count))
		g.say(one, number)
		g.say(two, number)
		count++
	}
}

// roomy gives a socket room for all that a test sends while its reader has no processor: socket(7), SO_RCVBUFFORCE.
func roomy(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20) })
	return errors.Join(err, set)
}

func TestPoliciesThatCannotBe(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	slot, _ := w.attach(n, alice)
	for what, bad := range map[string]network.Policy{
		"::ffff:192":   {Allow: prefixes("::ffff:192.0.2.0/120")},
		"1000":         {Deny: make([]netip.Prefix, 1001)},
		"whole bytes":  {Deny: many("10.0.0.0/9", 200)},
		"invalid Pref": {Allow: make([]netip.Prefix, 1)},
	} {
		mention := what
		if what == "invalid Pref" {
			mention = "IPv6"
		}
		wantCode(t, n.SetPolicy(t.Context(), alice, bad), models.Invalid, mention)
		_, err := n.Attach(t.Context(), alice, slot, bad)
		wantCode(t, err, models.Invalid, mention)
	}
	wantCode(t, n.SetPolicy(t.Context(), bob, network.DefaultPolicy), models.NotFound, "sb-00000b0b")
	wantCode(t, n.Pin(t.Context(), bob, "a.example", nil, time.Minute), models.NotFound, "sb-00000b0b")
	wantCode(t, n.Pin(t.Context(), alice, "a.example", nil, time.Minute), models.Precondition, "by name")
	_, err := n.Counters(bob)
	wantCode(t, err, models.NotFound, "sb-00000b0b")
}

func many(prefix string, count int) (list []netip.Prefix) {
	for range count {
		list = append(list, netip.MustParsePrefix(prefix))
	}
	return list
}
