package models

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParseDestination(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7":             "192.0.2.7/32",
		"192.0.2.0/24":          "192.0.2.0/24",
		"0.0.0.0/0":             "0.0.0.0/0",
		"2001:DB8:0::7":         "2001:db8::7/128",
		"2001:db8::/29":         "2001:db8::/29",
		"::/0":                  "::/0",
		"example.com":           "example.com",
		"EXAMPLE.com.":          "example.com",
		"*.example.com":         "*.example.com",
		"*.Example.COM.":        "*.example.com",
		"bücher.example":        "xn--bcher-kva.example",
		"*.BÜCHER.example":      "*.xn--bcher-kva.example",
		"xn--bcher-kva.example": "xn--bcher-kva.example",
		"例え.テスト":                "xn--r8jz45g.xn--zckzah",
		"faß.example":           "xn--fa-hia.example",
		"a。b.example":           "a.b.example",
		"_dmarc.example.com":    "_dmarc.example.com",
		"localhost":             "localhost",
		"r3---sn-x.example":     "r3---sn-x.example",
		"1.example":             "1.example",
		strings.Repeat("a", 63): strings.Repeat("a", 63),
	} {
		got, err := ParseDestination(text)
		if err != nil || got.String() != want {
			t.Errorf("ParseDestination(%q) = %s, %v, want %s", text, got, err, want)
			continue
		}
		again, err := ParseDestination(got.String())
		if err != nil || again != got {
			t.Errorf("what ParseDestination(%q) returned is read as %s, %v", text, again, err)
		}
	}
}

func TestParseDestinationRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"":                               "empty",
		" ":                              "character 1",
		"exa mple.com":                   "' ' at character 4",
		"https://example.com":            "':' at character 6",
		"bü cher.example":                "' ' at character 3",
		"example.com:443":                "no IP address or network",
		"example.com/path":               "no IP address or network",
		"*":                              "'*' at character 1",
		"*.*.example.com":                "'*' at character 3",
		"a.*.example.com":                "'*' at character 3",
		"*example.com":                   "'*' at character 1",
		"*.":                             "label 1 is empty",
		".":                              "label 1 is empty",
		".example.com":                   "label 1 is empty",
		"example..com":                   "label 2 is empty",
		"example.com..":                  "label 3 is empty",
		"-a.example":                     "label 1 begins or ends with a hyphen",
		"b.a-.example":                   "label 2 begins or ends with a hyphen",
		strings.Repeat("a", 64):          "label 1 has 64 characters",
		strings.Repeat("a.", 127) + "ab": "256 characters",
		strings.Repeat("a", 2000):        "253",
		"a\x00b.example":                 `'\x00' at character 2`,
		"a\xff.example":                  "UTF-8",
		"xn--a.example":                  "international form",
		"1.2.3":                          "no IP address or network",
		"256.1.1.1":                      "no IP address or network",
		"example.123":                    "no IP address or network",
		"example.１２３":                    "number",
		"192.0.2.7/24":                   "not its first",
		"192.0.2.0/33":                   "no IP address or network",
		"2001:db8::1/32":                 "not its first",
		"2001:db8::/129":                 "no IP address or network",
		"2001:db8:::1":                   "no IP address or network",
		"fe80::1%eth0":                   "no IP address or network",
		"[2001:db8::1]:443":              "no IP address or network",
		"::ffff:192.0.2.1":               "IPv4 in the form of IPv6",
		"::ffff:192.0.2.0/120":           "IPv4 in the form of IPv6",
		`a\.example.com`:                 `'\\' at character 2`,
	} {
		got, err := ParseDestination(text)
		if CodeOf(err) != Invalid || !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("ParseDestination(%q) = %s, %v, want an invalid error that says %s", text, got, err, says)
		}
	}
}

func TestMatchesName(t *testing.T) {
	for _, c := range []struct {
		rule, name string
		want       bool
	}{
		{"example.com", "example.com", true},
		{"example.com", "www.example.com", false},
		{"example.com", "notexample.com", false},
		{"*.example.com", "www.example.com", true},
		{"*.example.com", "a.b.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "notexample.com", false},
		{"*.example.com", ".example.com", false},
		{"*.example.com", "", false},
		{"192.0.2.0/24", "192.0.2.1", false},
		{"192.0.2.0/24", "", false},
	} {
		d, err := ParseDestination(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.MatchesName(c.name); got != c.want {
			t.Errorf("%s matches %q: %v", c.rule, c.name, got)
		}
	}
}

func rules(t *testing.T, texts ...string) []Destination {
	t.Helper()
	list, err := ParseDestinations("allow", texts)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestCheckNetwork(t *testing.T) {
	permitted := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd12::/16")}
	many := make([]Destination, MaxNetworkRules+1)
	for i := range many {
		many[i].Name = fmt.Sprintf("n%d.example", i)
	}
	for name, c := range map[string]struct {
		policy NetworkPolicy
		code   Code // "" for none
		says   string
	}{
		"default":               {policy: DefaultNetwork()},
		"public and names":      {policy: NetworkPolicy{Allow: rules(t, "192.0.2.0/24", "example.com"), Deny: rules(t, "10.0.0.0/8", "127.0.0.1")}},
		"everything denied":     {policy: NetworkPolicy{Deny: rules(t, "0.0.0.0/0")}},
		"permitted":             {policy: NetworkPolicy{Allow: rules(t, "10.1.2.0/24", "10.1.0.0/16")}},
		"full lists":            {policy: NetworkPolicy{Allow: many[1:], Deny: many[1:]}},
		"IPv6":                  {policy: NetworkPolicy{IPv6: true, Allow: rules(t, "2600::/12", "fd12:3::/48"), Deny: rules(t, "::/0", "fe80::/10")}},
		"IPv6, and not allowed": {NetworkPolicy{Allow: rules(t, "192.0.2.0/24", "2600::1")}, Invalid, "network.allow[1]: 2600::1/128 is IPv6, which the policy does not allow"},
		"IPv6, denied for show": {NetworkPolicy{Deny: rules(t, "2600::1")}, Invalid, "network.deny[0]"},
		"all of IPv6":           {NetworkPolicy{IPv6: true, Allow: rules(t, "2000::/3")}, Invalid, "no sandbox may reach 2001::/32"},
		"6to4":                  {NetworkPolicy{IPv6: true, Allow: rules(t, "2002:a00::/24")}, Invalid, "6to4"},
		"NAT64":                 {NetworkPolicy{IPv6: true, Allow: rules(t, "64:ff9b::/96")}, Invalid, "ways to IPv4"},
		"metadata by IPv6":      {NetworkPolicy{IPv6: true, Allow: rules(t, "fd00:ec2::254")}, Invalid, "cloud metadata"},
		"link-local IPv6":       {NetworkPolicy{IPv6: true, Allow: rules(t, "fe80::1")}, Invalid, "link-local"},
		"private IPv6":          {NetworkPolicy{IPv6: true, Allow: rules(t, "fd13::/16")}, Forbidden, "fc00::/7 (private addresses"},
		"metadata":              {NetworkPolicy{Allow: rules(t, "example.com", "169.254.169.254")}, Invalid, "network.allow[1]: 169.254.169.254/32 cannot be allowed, since no sandbox may reach 169.254.0.0/16"},
		"loopback":              {NetworkPolicy{Allow: rules(t, "127.0.0.0/16")}, Invalid, "127.0.0.0/8 (loopback)"},
		"everything":            {NetworkPolicy{Allow: rules(t, "0.0.0.0/0")}, Invalid, "0.0.0.0/8"},
		"multicast":             {NetworkPolicy{Allow: rules(t, "239.1.2.3")}, Invalid, "224.0.0.0/3"},
		"half of the addresses": {NetworkPolicy{Allow: rules(t, "128.0.0.0/1")}, Invalid, "169.254.0.0/16"},
		"private":               {NetworkPolicy{Allow: rules(t, "10.2.0.0/24")}, Forbidden, "network.allow[0]: 10.2.0.0/24 is within, or contains, 10.0.0.0/8"},
		"more than permitted":   {NetworkPolicy{Allow: rules(t, "10.0.0.0/15")}, Forbidden, "10.0.0.0/8"},
		"around a private one":  {NetworkPolicy{Allow: rules(t, "192.0.0.0/9")}, Forbidden, "192.0.0.0/24"},
		"shared":                {NetworkPolicy{Allow: rules(t, "100.64.1.1")}, Forbidden, "100.64.0.0/10"},
		"too many":              {NetworkPolicy{Deny: many}, Invalid, "network.deny must have at most 256 rules, not 257"},
		"twice":                 {NetworkPolicy{Deny: rules(t, "a.example", "A.example.")}, Invalid, "network.deny[1]: a.example is there twice"},
		"below 0":               {NetworkPolicy{Limits: NetworkLimits{UploadMbit: -1}}, Invalid, "network.limits.upload_mbit"},
		"too fast":              {NetworkPolicy{Limits: NetworkLimits{DownloadMbit: MaxMbit + 1}}, Invalid, "network.limits.download_mbit"},
		"too many packets":      {NetworkPolicy{Limits: NetworkLimits{PacketsPerSecond: MaxPacketsPerSecond + 1}}, Invalid, "packets_per_second"},
		"too many connections":  {NetworkPolicy{Limits: NetworkLimits{Connections: MaxConnections + 1}}, Invalid, "network.limits.connections must"},
		"too many new ones":     {NetworkPolicy{Limits: NetworkLimits{ConnectionsPerSecond: -5}}, Invalid, "connections_per_second"},
	} {
		err := CheckNetwork(c.policy, permitted)
		if c.code == "" && err != nil || c.code != "" && (CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says)) {
			t.Errorf("%s: %v, want %s %s", name, err, c.code, c.says)
		}
	}
}

func TestNetworkChange(t *testing.T) {
	off, ten := false, 10
	before := NetworkPolicy{Generation: 4, Internet: true, Allow: rules(t, "a.example"), Deny: rules(t, "b.example"), Limits: NetworkLimits{Connections: 5, UploadMbit: 1}}
	none := []Destination(nil)
	after := NetworkChange{Internet: &off, Deny: &none, Limits: NetworkLimitsChange{UploadMbit: &ten}}.Of(before)
	want := NetworkPolicy{Allow: rules(t, "a.example"), Limits: NetworkLimits{Connections: 5, UploadMbit: 10}}
	if !after.Equal(want) {
		t.Errorf("changed to %+v, want %+v", after, want)
	}
	if same := (NetworkChange{}).Of(before); !same.Equal(before) || after.Equal(before) {
		t.Errorf("nothing changed %+v into %+v", before, same)
	}
}

func FuzzParseDestination(f *testing.F) {
	for _, seed := range []string{"192.0.2.0/24", "*.example.com", "bücher.example", "xn--bcher-kva.example", "a。b", "\u200d.example", "１.２.３.４"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDestination(text)
		if err != nil {
			return
		}
		if again, err := ParseDestination(d.String()); err != nil || again != d {
			t.Fatalf("%q is %q, which is read as %q, %v", text, d, again, err)
		}
		if (d.Name != "") == d.Prefix.IsValid() {
			t.Fatalf("%q is %+v", text, d)
		}
	})
}
