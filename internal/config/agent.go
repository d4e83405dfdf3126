package config

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Agent is the configuration of the host agent.
type Agent struct {
	Data      string `yaml:"data" env:"WRENN_DATA"`                 // folder of sandboxes, images and snapshots
	Listen    string `yaml:"agent_listen" env:"WRENN_AGENT_LISTEN"` // unix:///path or host:port
	Join      string `yaml:"join" env:"WRENN_JOIN"`                 // URL of the control plane that a host of a network joins at its first start
	Token     string `yaml:"token" env:"WRENN_HOST_TOKEN"`          // with which it does, once
	Advertise string `yaml:"advertise" env:"WRENN_ADVERTISE"`       // host:port where control planes reach the agent; empty: agent_listen
	Kernel    string `yaml:"kernel" env:"WRENN_KERNEL"`             // guest kernel
	Images    string `yaml:"images" env:"WRENN_IMAGES"`             // folder of template images to take in
	Netns     string `yaml:"netns" env:"WRENN_NETNS"`               // path of the network namespace to work in; empty: the one it is started in
	Driver    string `yaml:"driver" env:"WRENN_DRIVER"`             // auto, qemu or firecracker
	Volume    string `yaml:"volume" env:"WRENN_VOLUME"`             // auto: make an XFS volume where the file system has no reflinks; off
	VolumeGiB int    `yaml:"volume_gib" env:"WRENN_VOLUME_GIB"`     // its size; 0: four fifths of what is free. The file behind it is sparse
	Subnet    string `yaml:"subnet" env:"WRENN_SUBNET"`             // of the guests, cut into /30s
	// SubnetIPv6 is what guests have their IPv6 addresses of, where their policy allows IPv6: a unique local network (RFC 4193).
	SubnetIPv6 string   `yaml:"subnet_ipv6" env:"WRENN_SUBNET_IPV6"`
	DNS        []string `yaml:"dns" env:"WRENN_DNS"`               // name servers that the host's forwarder asks for the guests, IP or IP:port; none: those of /etc/resolv.conf
	Jail       string   `yaml:"jail" env:"WRENN_JAIL"`             // on: each VMM has a user and a view of its own; off: VMMs run as root and see all
	OwnerBase  uint32   `yaml:"owner_base" env:"WRENN_OWNER_BASE"` // first of the users of VMMs, one for each /30 of the subnet; no other agent of the host may have them
	Cgroup     string   `yaml:"cgroup" env:"WRENN_CGROUP"`         // the cgroup v2 that limits sandboxes, below the root; off: no limits; with jails
	DiskMiBs   int      `yaml:"disk_mib_s" env:"WRENN_DISK_MIB_S"` // MiB a second that a sandbox may read, and write, on the host's disk; 0: as many as it can
	GoldenMiB  int      `yaml:"golden_mib" env:"WRENN_GOLDEN_MIB"` // MiB of the disk that golden snapshots may take, from which sandboxes are made without booting; 0: there are none
	PoolMiB    int      `yaml:"pool_mib" env:"WRENN_POOL_MIB"`     // MiB of the memory that VMs may take which were restored from golden snapshots before anybody asked for them; 0: there are none
	LogFormat  string   `yaml:"log_format" env:"WRENN_LOG_FORMAT"` // text or json
	// MetricsListen is as that of the control plane, which may be on the same machine.
	MetricsListen string `yaml:"agent_metrics_listen" env:"WRENN_AGENT_METRICS_LISTEN"`
	// Stored snapshots are read in turn, to see whether they are whole, at so many MiB a second, each so often. 0: they are not.
	ScrubMiBs  int           `yaml:"scrub_mib_s" env:"WRENN_SCRUB_MIB_S"`
	ScrubEvery time.Duration `yaml:"scrub_every" env:"WRENN_SCRUB_EVERY"`
	// Objects say where hibernated sandboxes go.
	Objects Objects `yaml:",inline"`
	// SeccompFilter is a compiled filter for a Firecracker that was built without one.
	SeccompFilter string `yaml:"seccomp_filter" env:"WRENN_SECCOMP_FILTER"`
}

// DefaultOwnerBase is beyond the users of people and services, and beyond the ids that useradd gives to the first user's containers.
const DefaultOwnerBase = 200_000

// maxOwnerBase leaves room for the users of the largest subnet below 2^31, from where on some programs take user ids for negative.
const maxOwnerBase = 1<<31 - 1<<16

// maxScrubMiBs is more than any disk gives.
const maxScrubMiBs = 1 << 16

// LoadAgent returns the defaults, overridden by the file and the environment.
func LoadAgent() (Agent, error) {
	cfg := Agent{
		Data: "/var/lib/wrenn", Listen: "unix:///run/wrenn/agent.sock",
		Kernel: "build/guest/vmlinux", Images: "build/guest/images",
		Driver: "auto", Volume: "auto", Subnet: "10.0.0.0/16", SubnetIPv6: "fd57:5245:4e4e::/112",
		Jail: "on", OwnerBase: DefaultOwnerBase, Cgroup: "wrenn.slice/sandboxes",
		GoldenMiB: 4096, PoolMiB: 2048, LogFormat: "text", ScrubMiBs: 32, ScrubEvery: 24 * time.Hour,
		Objects: Objects{Region: DefaultRegion, CacheMiB: DefaultCacheMiB},
	}
	return cfg, load(&cfg)
}

// Check returns an Invalid error that names the first setting that makes no sense.
func (c Agent) Check() error {
	switch {
	case c.Driver != "auto" && c.Driver != "qemu" && c.Driver != "firecracker":
		return models.Errorf(models.Invalid, "driver must be auto, qemu or firecracker, not %q", c.Driver)
	case c.Volume != "auto" && c.Volume != "off":
		return models.Errorf(models.Invalid, "volume must be auto or off, not %q", c.Volume)
	case c.VolumeGiB < 0:
		return models.Errorf(models.Invalid, "volume_gib must be 0 (four fifths of what is free) or more, not %d", c.VolumeGiB)
	case c.Jail != "on" && c.Jail != "off":
		return models.Errorf(models.Invalid, "jail must be on or off, not %q", c.Jail)
	case c.OwnerBase < 1000 || c.OwnerBase > maxOwnerBase:
		return models.Errorf(models.Invalid, "owner_base must be between 1000 and %d, not %d", maxOwnerBase, c.OwnerBase)
	case c.Cgroup == "" || c.Cgroup != "off" && (!filepath.IsLocal(c.Cgroup) || filepath.Clean(c.Cgroup) != c.Cgroup):
		return models.Errorf(models.Invalid, "cgroup must be off or a path below the root of the cgroups, not %q", c.Cgroup)
	case c.DiskMiBs < 0:
		return models.Errorf(models.Invalid, "disk_mib_s must be 0 (as many as it can) or more, not %d", c.DiskMiBs)
	case c.GoldenMiB < 0:
		return models.Errorf(models.Invalid, "golden_mib must be 0 (no golden snapshots) or more, not %d", c.GoldenMiB)
	case c.PoolMiB < 0:
		return models.Errorf(models.Invalid, "pool_mib must be 0 (no VM is restored ahead) or more, not %d", c.PoolMiB)
	case c.ScrubMiBs < 0 || c.ScrubMiBs > maxScrubMiBs:
		return models.Errorf(models.Invalid, "scrub_mib_s must be between 0 (stored snapshots are not read) and %d, not %d", maxScrubMiBs, c.ScrubMiBs)
	case c.ScrubEvery < time.Minute:
		return models.Errorf(models.Invalid, "scrub_every must be at least a minute, not %s", c.ScrubEvery)
	case c.LogFormat != "text" && c.LogFormat != "json":
		return models.Errorf(models.Invalid, "log_format must be text or json, not %q", c.LogFormat)
	}
	if err := checkMetricsListen("agent_metrics_listen", c.MetricsListen); err != nil {
		return err
	}
	if err := c.checkJoin(); err != nil {
		return err
	}
	if _, err := c.SubnetPrefix(); err != nil {
		return err
	}
	if err := c.Objects.Check(); err != nil {
		return err
	}
	if _, err := c.IPv6Prefix(); err != nil {
		return err
	}
	_, err := c.Upstreams()
	return err
}

// OnNetwork tells whether control planes reach the agent over a network, and not by a unix socket.
func (c Agent) OnNetwork() bool { return !strings.HasPrefix(c.Listen, "unix://") }

// Address is where control planes reach the agent.
func (c Agent) Address() string { return cmp.Or(c.Advertise, c.Listen) }

func (c Agent) checkJoin() error {
	if !c.OnNetwork() {
		if c.Join != "" {
			return models.Errorf(models.Invalid, "join is for hosts of a network, and agent_listen is %q", c.Listen).WithHint("agent_listen must be host:port then")
		}
		return nil
	}
	name, port, err := net.SplitHostPort(c.Address())
	if number, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || number == 0 {
		return models.Errorf(models.Invalid, "agent_listen and advertise must be unix:///path or host:port, not %q", c.Address())
	}
	if ip := net.ParseIP(name); name == "" || ip != nil && ip.IsUnspecified() {
		return models.Errorf(models.Invalid, "advertise must say at which address control planes reach the agent, and %q does not", c.Address())
	}
	u, err := url.Parse(c.Join)
	if c.Join != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return models.Errorf(models.Invalid, "join must be the URL of a control plane, not %q", c.Join)
	}
	return nil
}

// SubnetPrefix returns the guests' subnet.
func (c Agent) SubnetPrefix() (netip.Prefix, error) {
	p, err := netip.ParsePrefix(c.Subnet)
	if err != nil || !p.Addr().Is4() || p != p.Masked() {
		return netip.Prefix{}, models.Errorf(models.Invalid, "subnet must be an IPv4 network such as 10.0.0.0/16, not %q", c.Subnet)
	}
	return p, nil
}

// IPv6Prefix returns the guests' subnet of IPv6.
func (c Agent) IPv6Prefix() (netip.Prefix, error) {
	p, err := netip.ParsePrefix(c.SubnetIPv6)
	if err != nil || !netip.MustParsePrefix("fc00::/7").Contains(p.Addr()) || p.Bits() > 112 || p != p.Masked() {
		return netip.Prefix{}, models.Errorf(models.Invalid, "subnet_ipv6 must be a unique local network of at most 112 bits such as fd57:5245:4e4e::/112, not %q", c.SubnetIPv6)
	}
	return p, nil
}

// Upstreams returns the name servers that are asked for the guests.
func (c Agent) Upstreams() ([]netip.AddrPort, error) {
	const dnsPort = 53
	servers := make([]netip.AddrPort, len(c.DNS))
	for i, text := range c.DNS {
		if addr, err := netip.ParseAddr(text); err == nil {
			servers[i] = netip.AddrPortFrom(addr, dnsPort)
			continue
		}
		server, err := netip.ParseAddrPort(text)
		if err != nil || server.Port() == 0 {
			return nil, models.Errorf(models.Invalid, "dns must be IP addresses of name servers, with or without a port, not %q", text)
		}
		servers[i] = server
	}
	return servers, nil
}
