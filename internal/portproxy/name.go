package portproxy

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Name is a port of a sandbox.
type Name struct {
	Sandbox id.Sandbox
	Port    int
}

// ParsePort reads a port as it stands in a URL: one way to write each.
func ParsePort(text string) (int, error) {
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 || strconv.Itoa(port) != text {
		return 0, models.Errorf(models.Invalid, "a port is a number from 1 to 65535")
	}
	return port, nil
}

// label is the one below the domain. A sandbox's id has a dash of its own, so the label is not split at dashes.
var label = regexp.MustCompile(`^([1-9][0-9]{0,4})-(sb-[0-9a-f]{8})$`)

// ParseHost reads the Host of a request. below says whether it belongs to the ports of sandboxes at all: whatever is
// below the domain does, the domain itself and all others do not. What is below it and names no port is
// NotFound. An empty domain has nothing below it.
func ParseHost(host, domain string) (name Name, below bool, err error) {
	if only, _, err := net.SplitHostPort(host); err == nil {
		host = only
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	first, found := strings.CutSuffix(host, "."+strings.ToLower(domain))
	if domain == "" || !found {
		return Name{}, false, nil
	}
	parts := label.FindStringSubmatch(first)
	if parts == nil {
		return Name{}, true, unnamed(domain)
	}
	port, err := ParsePort(parts[1])
	if err != nil {
		return Name{}, true, unnamed(domain)
	}
	return Name{Sandbox: id.Sandbox(parts[2]), Port: port}, true, nil
}

func unnamed(domain string) error {
	return models.Errorf(models.NotFound, "this host name is no port of a sandbox").WithHint("{port}-sb-xxxxxxxx.%s", domain)
}

// Host is the host name of a port below the domain.
func (n Name) Host(domain string) string {
	return strconv.Itoa(n.Port) + "-" + string(n.Sandbox) + "." + domain
}
