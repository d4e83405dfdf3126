package boot

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// setHostname sets the hostname and makes it resolve.
func setHostname(name string) error {
	if name == "" {
		return nil
	}
	if !validHostname(name) {
		return fmt.Errorf("%q is no hostname", name)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	old, err := readFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return setFile("/etc/hosts", hosts(old, name))
}

// validHostname accepts what RFC 1123 calls one label.
func validHostname(name string) bool {
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (c != '-' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	return len(name) <= 63
}

// hostsMark ends the line of /etc/hosts that is envd's; all others are left alone.
const hostsMark = "\t# set by envd"

// hosts returns the content of /etc/hosts with name as the guest's own.
func hosts(old []byte, name string) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(old)) {
		if line = strings.TrimRight(line, "\n"); !strings.HasSuffix(line, hostsMark) {
			b.WriteString(line + "\n")
		}
	}
	if !bytes.Contains(old, []byte("localhost")) {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	b.WriteString("127.0.1.1\t" + name + hostsMark + "\n")
	return b.Bytes()
}

// setResolvers writes /etc/resolv.conf. The C library reads no more than three servers.
func setResolvers(servers []netip.Addr) error {
	if len(servers) == 0 {
		return nil
	}
	return setFile("/etc/resolv.conf", resolvers(servers))
}

// resolversLine is no shorter than the line of any IPv4 server.
const resolversLine = len("nameserver 255.255.255.255\n")

// resolvers returns the content of /etc/resolv.conf. Empty lines make it as long as that of other servers, which it is written over.
func resolvers(servers []netip.Addr) []byte {
	var b []byte
	for _, server := range servers {
		b = append(b, "nameserver "+server.String()+"\n"...)
	}
	for len(b) < len(servers)*resolversLine {
		b = append(b, '\n')
	}
	return b
}
