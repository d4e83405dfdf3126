// Package network connects sandboxes: a TAP device and a /30 of its own for each, and one
// nftables table for all of them.
//
// Each sandbox has a slot, four addresses of the subnet: the host's end of the TAP is .1,
// the guest .2. The TAP is named tap-sb-xxxxxxxx after the sandbox. It is made ahead (pool.go), persistent, and
// belongs to the uid of its slot: the VMM opens it by its name, and it outlives the VMM and the agent until Detach.
//
// What belongs to a sandbox is elements of the table's sets (set.go), so that the ten thousandth sandbox costs what the
// first did, and each change is one transaction (held.go); the rules (rules.go) never change. They let guests reach the world
// through the host's address as far as their Policy goes, by TCP, UDP and ping, also in fragments, and deny them always: each other,
// the host (except for a ping of their gateway, and names from it), link-local addresses and so cloud metadata, multicast and broadcast,
// sources that are not their own by IP, Ethernet and ARP, tunnels and every other protocol. Nothing from outside
// reaches them but answers. No other table is touched. Why so: docs/adr/0008-the-shape-of-the-table.md.
//
// IPv6 is denied unless a policy allows it; then a sandbox has an address of that, too, and what is said above holds for it
// (ipv6*.go, docs/adr/0022-ipv6.md).
//
// A Network belongs to the network namespace of the thread that called Open, whichever thread
// calls its methods, and to one process at a time. All it needs after a restart is Take and Attach for
// every sandbox that is to live on, with its policy, and Sweep for the others: what the kernel holds
// is found again, and made equal to the policy without a moment of openness or interruption.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// DefaultSubnet gives 16,384 slots.
var DefaultSubnet = netip.MustParsePrefix("10.0.0.0/16")

// defaultNewConnections is how many connections all sandboxes together may begin in a second.
const defaultNewConnections = 20_000

// requestTimeout bounds one request to the kernel. They take microseconds; what takes this
// long hangs.
const requestTimeout = 10 * time.Second

// Config says which addresses the sandboxes get.
type Config struct {
	Subnet netip.Prefix // from /16 to /30, IPv4; zero: DefaultSubnet
	// SubnetIPv6 is what sandboxes have their IPv6 addresses of: a unique local network; zero: DefaultSubnetIPv6.
	SubnetIPv6 netip.Prefix
	// OwnerBase is the uid that owns the TAP of slot 0; the TAP of slot i belongs to OwnerBase+i, which that slot's VMM
	// runs as. 0: root owns all.
	OwnerBase uint32
	Limits    Limits       // of a sandbox whose policy leaves them open; what is zero here too has a default
	Total     Limits       // of all sandboxes together; zero: none, but for new connections. Connections is not used
	Pool      int          // TAPs made ahead; 0: DefaultPool, negative: none
	Logger    *slog.Logger // nil: slog.Default()

	pretend func(*Network) // tests make the host another one
}

// Info says what Open found.
type Info struct {
	Subnet     netip.Prefix
	SubnetIPv6 netip.Prefix
	Slots      int
	Uplink     string // the device of the default route, at present; empty: there is none
	// UplinkIPv6 is the same for IPv6, which most hosts do without.
	UplinkIPv6 string
	// ObstacleIPv6 is what on this host keeps sandboxes from the network by IPv6; empty: nothing.
	ObstacleIPv6 string
	// ForwardingEnabled says that Open turned net.ipv4.ip_forward on. It is never turned off again:
	// by then another router on the machine (Docker, a VPN) may rely on it.
	ForwardingEnabled bool
	// Warnings are for the operator: what on this host will keep sandboxes from the network, and the remedy.
	Warnings []string
}

// Network is the sandboxes' network in one namespace. Its methods may be called at the same time.
type Network struct {
	cfg      Config
	can      abilities
	host     host
	log      *slog.Logger
	slots    *slots
	pool     *pool
	busy     busy // sandboxes that are being attached or detached
	attached attachments
	held     held
	told     told
	ipv6     ipv6Host

	infoMu  sync.Mutex
	info    Info
	missing []string // what the kernel lacks

	dnsMu sync.Mutex // held while ListenDNS redirects to its sockets

	ns     *netns.Namespace
	route  *netlink.Handle          // rtnetlink(7)
	links  map[int]*nl.SocketHandle // the same, for what the library has no call for
	kernel *netfilter
	inet   *os.File // a socket for the ioctls of netdevice(7)
	lock   *os.File

	background sync.WaitGroup
	stop       context.CancelFunc // ends what is in the background

	gone *graveyard // devices that wait for their deletion

	state  sync.RWMutex // held for reading by every method while it works
	closed bool
}

// Open sets up the network in the calling thread's namespace: it checks that the subnet is
// free, turns forwarding on and replaces the table `wrenn` in one transaction. TAPs that are
// there stay as they are, and traffic through them goes on.
//
// Errors: Invalid for a subnet that cannot be used, Precondition for one that collides
// with the host's routes (the hint names one that does not), Conflict while another process
// has the namespace's network open.
func Open(ctx context.Context, cfg Config) (*Network, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if !cfg.Subnet.IsValid() {
		cfg.Subnet = DefaultSubnet
	}
	if !cfg.SubnetIPv6.IsValid() {
		cfg.SubnetIPv6 = DefaultSubnetIPv6
	}
	cfg.Limits = cfg.Limits.or(defaultLimits)
	cfg.Total.NewConnections = cmp.Or(cfg.Total.NewConnections, defaultNewConnections)
	cfg.Pool = max(cmp.Or(cfg.Pool, DefaultPool), 0)
	slots, err := newSlots(cfg.Subnet, cfg.SubnetIPv6, cfg.OwnerBase)
	if err != nil {
		return nil, err
	}
	n := &Network{
		cfg:      cfg,
		info:     Info{Subnet: cfg.Subnet, SubnetIPv6: cfg.SubnetIPv6, Slots: slots.count()},
		log:      cfg.Logger,
		slots:    slots,
		attached: attachments{bySandbox: map[id.Sandbox]attachment{}, byGuest: map[netip.Addr]id.Sandbox{}, byDevice: map[uint32]id.Sandbox{}},
		stop:     func() {},
	}
	n.pool, n.gone, n.host = newPool(n, cfg.Pool), newGraveyard(n), n.realHost()
	if cfg.pretend != nil {
		cfg.pretend(n)
	}
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open sandbox network: %w", err), n.release())
	}
	return n, nil
}

// Info says what was found by Open, and since: see Info.
func (n *Network) Info() Info {
	n.infoMu.Lock()
	defer n.infoMu.Unlock()
	info := n.info
	info.Warnings = slices.Clone(info.Warnings)
	return info
}

// Close lets go of the namespace, and leaves TAPs and table as they are, for the guests to
// go on with. With remove it first deletes both, also TAPs that are in use. The Network
// cannot be used afterwards; closing it again does nothing.
func (n *Network) Close(ctx context.Context, remove bool) error {
	var err error
	if remove {
		_, err = n.Sweep(ctx, nil)
	}
	n.state.Lock()
	defer n.state.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	n.stop()
	n.background.Wait()
	if remove {
		err = errors.Join(err, n.drain())
	}
	err = errors.Join(err, n.gone.empty())
	if remove {
		err = errors.Join(err, n.removeTable())
	}
	return errors.Join(err, n.release())
}

func (n *Network) open(ctx context.Context) error {
	if err := n.acquire(); err != nil {
		return err
	}
	if err := n.checkCollisions(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	if n.info.ForwardingEnabled, err = enableForwarding(n.ns); err != nil {
		return err
	}
	if n.can, n.missing, err = n.probe(); err != nil {
		return err
	}
	n.held.kernel, n.held.sets = n.kernel, perDevice(n.can)
	if err := n.applyTable(); err != nil {
		return err
	}
	if err := n.recall(); err != nil {
		return err
	}
	return n.start(ctx)
}

// recall finds what an earlier process left: the policies of sandboxes that are attached, and the pool.
func (n *Network) recall() error {
	links, err := whole(n.route.LinkList)
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	keep := map[uint32]bool{}
	for _, link := range links {
		if _, ok := sandboxOf(link); ok {
			keep[uint32(link.Attrs().Index)] = true
		}
	}
	if err := n.held.keep(keep); err != nil {
		return err
	}
	return n.adopt(links)
}

// start begins what goes on in the background until Close.
func (n *Network) start(ctx context.Context) error {
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, begin := range []func(context.Context) error{n.watchUplink, n.watchRefusals, n.watchConnections} {
		if err := begin(ctx); err != nil {
			n.stop()
			n.background.Wait()
			return err
		}
	}
	n.background.Go(func() { n.pool.run(ctx) })
	n.background.Go(func() { n.gone.run(ctx) })
	return nil
}

// acquire opens what n needs of the namespace of the calling thread.
func (n *Network) acquire() (err error) {
	if n.ns, err = netns.Current(); err != nil {
		return err
	}
	return n.ns.Do(func() error {
		if n.lock, err = lockNamespace(); err != nil {
			return err
		}
		if n.inet, err = socket(unix.AF_INET); err != nil {
			return err
		}
		if n.route, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if n.links, err = routeSocket(); err != nil {
			return err
		}
		if n.gone.links, err = routeSocket(); err != nil {
			return err
		}
		n.kernel = &netfilter{ns: n.ns}
		return n.route.SetSocketTimeout(requestTimeout)
	})
}

// routeSocket is a socket of rtnetlink(7) of the calling thread's namespace, as package nl wants it.
func routeSocket() (map[int]*nl.SocketHandle, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}, nil
}

func (n *Network) release() error {
	if n.route != nil {
		n.route.Close()
	}
	for _, s := range []map[int]*nl.SocketHandle{n.links, n.gone.links} {
		if s != nil {
			s[unix.NETLINK_ROUTE].Close()
		}
	}
	err := errors.Join(closeFile(n.inet), closeFile(n.lock))
	if n.kernel != nil {
		err = errors.Join(err, n.kernel.close())
	}
	if n.ns != nil {
		err = errors.Join(err, n.ns.Close())
	}
	return err
}

// begin is called first in every method that works on the namespace, and end last.
func (n *Network) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.state.RLock()
	if n.closed {
		n.state.RUnlock()
		return nil, models.Errorf(models.Unavailable, "the sandbox network is closed")
	}
	return n.state.RUnlock, nil
}

// beginFor is begin of what concerns one sandbox; for the same one it waits until it is its turn.
func (n *Network) beginFor(ctx context.Context, sandbox id.Sandbox) (end func(), err error) {
	if _, err := id.ParseSandbox(string(sandbox)); err != nil {
		return nil, models.Errorf(models.Invalid, "%v", err)
	}
	done, err := n.begin(ctx)
	if err != nil {
		return nil, err
	}
	unlock := n.busy.lock(sandbox)
	return func() { unlock(); done() }, nil
}

// lockNamespace makes sure that no other process has this network. An abstract socket
// belongs to its network namespace and goes with its process: unix(7).
func lockNamespace() (*os.File, error) {
	f, err := socket(unix.AF_UNIX)
	if err != nil {
		return nil, err
	}
	const name = "@wrenn-network"
	if err := unix.Bind(int(f.Fd()), &unix.SockaddrUnix{Name: name}); err != nil {
		err = models.Errorf(models.Conflict, "another host agent runs in this network namespace").
			WithHint("end it first; `ss -xlp | grep %s` shows which it is", name).WithCause(err)
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func socket(family int) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}
