package network

import (
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
)

// The names of the sets. What is keyed by a device is keyed by its index, which the kernel does not use again while
// anyone remembers it.
const (
	guests     = "guests"       // device . Ethernet address . address: what a guest may send from
	gateways   = "gateways"     // device . address of its gateway
	marks      = "marks"        // device : mark of the connections that its present policy let pass
	current    = "current"      // device . that mark
	flags      = "policy_flags" // mark: what that policy says in bits, see flagInternet
	allowed    = "allowed"      // mark . network . bits of the network
	denied     = "denied"       // mark . network . bits of the network
	pins       = "pins"         // mark . address, for a time
	limits     = "rate_limits"  // device . kind, with a limit
	refusals   = "refusals"     // device . number of the rule, with a counter
	dnsPorts   = "dns_ports"    // protocol : port of ListenDNS
	dnsSockets = "dns"          // protocol . port of ListenDNS
	pressure   = "pressure"     // nfproto: new connections are held back
	// The same for IPv6.
	ipv6Devices  = "ipv6_devices"  // device, of a sandbox whose policy allows IPv6
	guestsIPv6   = "guests_ipv6"   // device . Ethernet address . address
	gatewaysIPv6 = "gateways_ipv6" // device . address of its gateway
	allowedIPv6  = "allowed_ipv6"  // mark . network . bits of the network
	deniedIPv6   = "denied_ipv6"   // mark . network . bits of the network
	pinsIPv6     = "pins_ipv6"     // mark . address, for a time

	arpGuests = "arp_guests" // device . Ethernet address . address . gateway: of the table of family arp
	arpRate   = "arp_rate"   // device, for a time: of the same table
)

// set is the definition of a set; changing one means to change layout.
type set struct {
	name    string
	key     []nftables.SetDatatype
	data    *nftables.SetDatatype // of a map
	timeout time.Duration         // of elements that name none; -1: they may have one
	dynamic bool                  // rules add elements, up to size
	size    uint32
}

var (
	device = nftables.TypeIFIndex
	mark   = nftables.TypeMark
	addr   = nftables.TypeIPAddr
	addr6  = nftables.TypeIP6Addr
	mac    = nftables.TypeEtherAddr
	number = nftables.TypeMark // any word: of a mere integer nft(8) does not know the size
	proto  = nftables.TypeInetProto
	port   = nftables.TypeInetService
)

type types = []nftables.SetDatatype

// maxPinsOnHost bounds the kernel's memory for pins.
const maxPinsOnHost = 1 << 20

// inetSets are the sets of the table of family inet.
func inetSets() []set {
	list := []set{
		{name: guests, key: types{device, mac, addr}},
		{name: gateways, key: types{device, addr}},
		{name: marks, key: types{device}, data: &mark},
		{name: current, key: types{device, mark}},
		{name: flags, key: types{mark}, data: &mark},
		{name: allowed, key: types{mark, addr, number}},
		{name: denied, key: types{mark, addr, number}},
		{name: pins, key: types{mark, addr}, timeout: -1, size: maxPinsOnHost},
		{name: limits, key: types{device, number}},
		{name: refusals, key: types{device, number}},
		{name: dnsPorts, key: types{proto}, data: &port},
		{name: dnsSockets, key: types{proto, port}},
		{name: pressure, key: types{nftables.TypeNFProto}},
		{name: ipv6Devices, key: types{device}},
		{name: guestsIPv6, key: types{device, mac, addr6}},
		{name: gatewaysIPv6, key: types{device, addr6}},
		{name: allowedIPv6, key: types{mark, addr6, number}},
		{name: deniedIPv6, key: types{mark, addr6, number}},
		{name: pinsIPv6, key: types{mark, addr6}, timeout: -1, size: maxPinsOnHost},
	}
	for class := minClass; class <= maxClass; class++ {
		list = append(list, set{name: connectionSet(class), key: types{device}, dynamic: true, size: maxDevices})
	}
	return list
}

// arpSets are the sets of the table of family arp.
func arpSets() []set {
	return []set{
		{name: arpGuests, key: types{device, mac, addr, addr}},
		{name: arpRate, key: types{device}, dynamic: true, size: maxDevices, timeout: time.Minute},
	}
}

// maxDevices bounds what rules add by themselves; it is more than there can be slots.
const maxDevices = 1 << 16

// in is the set as nftables has it.
func (s set) in(table *nftables.Table) *nftables.Set {
	made := &nftables.Set{
		Table: table, Name: s.name, KeyType: nftables.MustConcatSetType(s.key...), KeyByteOrder: binaryutil.NativeEndian,
		Dynamic: s.dynamic, Size: s.size, HasTimeout: s.timeout != 0, Timeout: max(s.timeout, 0),
	}
	if len(s.key) == 1 { // a concatenation would be padded
		made.KeyType = s.key[0]
	}
	if s.data != nil {
		made.IsMap, made.DataType = true, *s.data
	}
	return made
}
