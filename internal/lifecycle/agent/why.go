package agent

import "fmt"

// whys says for users what the network's rules mean (network.Rules). Those of names explain themselves.
var whys = map[string]string{
	"ipv6":            "the sandbox's network policy does not allow IPv6, or its host has none",
	"spoofed":         "the sender's address is not the sandbox's own",
	"link_local":      "link-local addresses, and so cloud metadata, are always denied",
	"multicast":       "multicast, reserved addresses and broadcast are always denied",
	"loopback":        "loopback addresses are always denied",
	"this_network":    "0.0.0.0/8, and :: of IPv6, are always denied",
	"ip_options":      "packets that ask for a way of their own (IP options, extension headers of IPv6) are always denied",
	"protocol":        "sandboxes may use TCP, UDP and ping alone",
	"fragments":       "the sandbox sends too many fragments",
	"sandbox":         "other sandboxes are always denied",
	"host":            "the host's addresses are always denied",
	"invalid":         "the packet belongs to no connection, or to one that the network policy ended",
	"private":         "private ranges are denied unless the sandbox's network policy allows them",
	"denied":          "the sandbox's network policy denies the address",
	"internet":        "internet is off, and no rule of the sandbox's network policy allows the address",
	"dns":             "where a network policy has rules by name, no name server but the sandbox's own may be asked, and that not too often",
	"packet_rate":     "the sandbox sends more packets a second than its limit",
	"bandwidth":       "the sandbox sends or receives more bytes a second than its limit",
	"ipv4_in_ipv6":    "IPv6 addresses that stand for IPv4 ones (NAT64, 6to4, Teredo) are always denied: IPv4 goes by IPv4",
	"connection_rate": "the sandbox has, or begins, more connections than its limit",
}

func why(rule string) string {
	if text, ok := whys[rule]; ok {
		return text
	}
	return fmt.Sprintf("the rule %s of the host denies it", rule)
}
