package dns

import (
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// DefaultResolvConf is where the host keeps its name servers: resolv.conf(5).
const DefaultResolvConf = "/etc/resolv.conf"

const (
	// lookEvery is how often the file is looked at for changes, when there are questions.
	lookEvery = time.Second
	// maxServers is how many of the file's servers are used: MAXNS of resolv.conf(5).
	maxServers = 3
	dnsPort    = 53
)

// follow returns a function that returns the servers that the file names by now.
func follow(path string, log *slog.Logger) func() []netip.AddrPort {
	if path == "" {
		path = DefaultResolvConf
	}
	var mu sync.Mutex // guards what follows
	var looked time.Time
	var text string
	var servers []netip.AddrPort
	return func() []netip.AddrPort {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(looked) < lookEvery {
			return servers
		}
		first := looked.IsZero()
		looked = time.Now()
		b, err := os.ReadFile(path)
		if err != nil { // while it is being replaced, what it said last holds
			log.Warn("the host's name servers cannot be read", "path", path, "error", err)
			return servers
		}
		if string(b) == text && !first {
			return servers
		}
		text, servers = string(b), nameservers(string(b))
		log.Info("asking the host's name servers", "path", path, "servers", servers)
		return servers
	}
}

// nameservers reads the servers of a resolv.conf.
func nameservers(text string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(servers) == maxServers {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, dnsPort))
		}
	}
	return servers
}
