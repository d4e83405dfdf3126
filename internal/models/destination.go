package models

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxDestination is the longest text that can be a destination: a name of 253 characters (RFC 1035, 2.3.4) before
// it is encoded, each of which may be written in 4 bytes.
const maxDestination = 4 * 253

// Destination is where a rule of a network policy leads: addresses, or a name. It is comparable.
type Destination struct {
	Prefix netip.Prefix // IPv4 or IPv6; invalid for a name
	Name   string       // lower case, ASCII, without the last dot; "*.example.com" is every name below example.com, and not itself
}

// wildcard begins a Name that means all names below the rest.
const wildcard = "*."

// String returns the form that ParseDestination reads.
func (d Destination) String() string {
	if d.Name != "" {
		return d.Name
	}
	return d.Prefix.String()
}

// MarshalText implements encoding.TextMarshaler.
func (d Destination) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Destination) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDestination(string(text))
	return err
}

// MatchesName tells whether d is a rule for name, which must be in the form of Destination.Name.
func (d Destination) MatchesName(name string) bool {
	if below, ok := strings.CutPrefix(d.Name, wildcard); ok {
		return len(name) > len(below)+1 && strings.HasSuffix(name, below) && name[len(name)-len(below)-1] == '.'
	}
	return d.Name != "" && d.Name == name
}

// ParseDestination reads an address, a network, a domain name or *.name. Names may be international; they
// are kept in their ASCII form (RFC 5890). The error is Invalid and says at which character the text goes wrong.
func ParseDestination(text string) (Destination, error) {
	switch {
	case text == "":
		return Destination{}, Errorf(Invalid, "a rule must not be empty").WithHint("it is an IP address, a network such as 192.0.2.0/24 or 2001:db8::/32, or a domain name")
	case len(text) > maxDestination:
		return Destination{}, Errorf(Invalid, "a rule must have at most 253 characters")
	case !utf8.ValidString(text):
		return Destination{}, Errorf(Invalid, "a rule must be UTF-8")
	case looksLikeAddress(text):
		p, err := parseAddresses(text)
		return Destination{Prefix: p}, err
	}
	name, err := parseName(text)
	return Destination{Name: name}, err
}

// ParseDestinations reads the list of a policy; the error names the list and the place in it.
func ParseDestinations(list string, texts []string) ([]Destination, error) {
	if len(texts) > MaxNetworkRules {
		return nil, Errorf(Invalid, "network.%s must have at most %d rules, not %d", list, MaxNetworkRules, len(texts))
	}
	var out []Destination
	for i, text := range texts {
		d, err := ParseDestination(text)
		if err != nil {
			e := AsError(err)
			return nil, Errorf(e.Code, "network.%s[%d]: %s", list, i, e.Message).WithHint("%s", e.Hint).WithCause(e.Cause)
		}
		out = append(out, d)
	}
	return out, nil
}

// DestinationTexts is what ParseDestinations reads; it is never nil.
func DestinationTexts(rules []Destination) []string {
	texts := make([]string, len(rules))
	for i, d := range rules {
		texts[i] = d.String()
	}
	return texts
}

// looksLikeAddress tells whether text is meant as addresses: its last label is a number, which no domain's is, or it
// has a character that only they have.
func looksLikeAddress(text string) bool {
	if strings.ContainsAny(text, ":/") {
		return !strings.Contains(text, "://")
	}
	last := text[strings.LastIndexByte(text, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func parseAddresses(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if addr, single := netip.ParseAddr(text); single == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil:
		return netip.Prefix{}, Errorf(Invalid, "%q is no IP address or network", text).
			WithHint("write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32; a domain name has no port and no path")
	case p.Addr().Is4In6():
		return netip.Prefix{}, Errorf(Invalid, "%s is IPv4 in the form of IPv6", text).WithHint("write %s", p.Addr().Unmap())
	case p != p.Masked():
		return netip.Prefix{}, Errorf(Invalid, "%s is an address within a network, and not its first", text).WithHint("the network is %s", p.Masked())
	}
	return p, nil
}

// names turns a name into its ASCII form as RFC 5891 does for a look-up. Underscores, and hyphens in the third and fourth place,
// are in names that are in use.
var names = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false))

// parseName returns the form in which a name is kept.
func parseName(text string) (string, error) {
	below, isWildcard := strings.CutPrefix(text, wildcard)
	if i, r := badCharacter(below); i >= 0 {
		at := utf8.RuneCountInString(text[:len(text)-len(below)+i]) + 1
		e := Errorf(Invalid, "%q is no domain name: %q at character %d cannot be in one", text, r, at)
		if r == '*' {
			return "", e.WithHint("an asterisk is the whole first label, as in *.example.com; \"internet\": \"on\" allows every name")
		}
		return "", e.WithHint("a name has letters, digits, hyphens and dots; it has no scheme, no port and no path")
	}
	ascii, err := names.ToASCII(strings.TrimSuffix(below, "."))
	if err != nil {
		return "", Errorf(Invalid, "%q is no domain name: its international form is not valid", text).WithCause(err)
	}
	if err := checkLabels(text, ascii); err != nil {
		return "", err
	}
	if looksLikeAddress(ascii) { // digits of other scripts
		return "", Errorf(Invalid, "%q is no domain name: its last label is a number", text)
	}
	if isWildcard {
		return wildcard + ascii, nil
	}
	return ascii, nil
}

// badCharacter returns the place of the first ASCII character that cannot be in a name, or -1. Others are judged by
// their international form.
func badCharacter(name string) (int, rune) {
	for i, r := range name {
		plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
		if !plain && r < utf8.RuneSelf {
			return i, r
		}
	}
	return -1, 0
}

// checkLabels holds the rules of RFC 1035, 2.3, for the ASCII form of text.
func checkLabels(text, ascii string) error {
	if len(ascii) > 253 {
		return Errorf(Invalid, "%q is no domain name: it has %d characters, and a name has at most 253", text, len(ascii))
	}
	for i, label := range strings.Split(ascii, ".") {
		switch {
		case label == "":
			return Errorf(Invalid, "%q is no domain name: its label %d is empty", text, i+1)
		case len(label) > 63:
			return Errorf(Invalid, "%q is no domain name: its label %d has %d characters, and a label has at most 63", text, i+1, len(label))
		case label[0] == '-' || label[len(label)-1] == '-':
			return Errorf(Invalid, "%q is no domain name: its label %d begins or ends with a hyphen", text, i+1)
		}
		if j, r := badCharacter(label); j >= 0 {
			return Errorf(Invalid, "%q is no domain name: its label %d has the character %q", text, i+1, r)
		}
	}
	return nil
}
