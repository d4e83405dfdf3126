package portproxy

import (
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestParseHost(t *testing.T) {
	const domain = "Box.example.com"
	for host, want := range map[string]struct {
		port  int
		below bool
	}{
		"8080-sb-0123abcd.box.example.com":       {8080, true},
		"8080-SB-0123ABCD.BOX.Example.COM":       {8080, true},
		"8080-sb-0123abcd.box.example.com:8000":  {8080, true},
		"8080-sb-0123abcd.box.example.com.":      {8080, true},
		"1-sb-0123abcd.box.example.com.:8000":    {1, true},
		"65535-sb-0123abcd.box.example.com":      {65535, true},
		"65536-sb-0123abcd.box.example.com":      {0, true},
		"0-sb-0123abcd.box.example.com":          {0, true},
		"08080-sb-0123abcd.box.example.com":      {0, true},
		"8080-sb-0123abc.box.example.com":        {0, true},
		"8080-sb-0123abcd-.box.example.com":      {0, true},
		"8080-xx-0123abcd.box.example.com":       {0, true},
		"-8080-sb-0123abcd.box.example.com":      {0, true},
		"a.8080-sb-0123abcd.box.example.com":     {0, true},
		"8080-sb-0123abcd.a.box.example.com":     {0, true},
		"www.box.example.com":                    {0, true},
		".box.example.com":                       {0, true},
		"box.example.com":                        {0, false},
		"8080-sb-0123abcd.fox.example.com":       {0, false},
		"8080-sb-0123abcdbox.example.com":        {0, false},
		"8080-sb-0123abcd.box.example.com.evil":  {0, false},
		"127.0.0.1:8000":                         {0, false},
		"[::1]:8000":                             {0, false},
		"":                                       {0, false},
		"8080-sb-0123abcd.box.example.com:80:80": {0, false},
	} {
		name, below, err := ParseHost(host, domain)
		if name.Port != want.port || below != want.below || (err != nil) != (below && want.port == 0) {
			t.Errorf("%s: %+v, %v, %v", host, name, below, err)
		}
		if err != nil && models.CodeOf(err) != models.NotFound {
			t.Errorf("%s: %v", host, err)
		}
		if want.port != 0 && name.Sandbox != "sb-0123abcd" {
			t.Errorf("%s: sandbox %s", host, name.Sandbox)
		}
	}
	if _, below, _ := ParseHost("8080-sb-0123abcd.", ""); below {
		t.Error("an empty domain has something below it")
	}
}

// FuzzParseHost: what is taken for a port is written in the one way that Host writes it.
func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{"8080-sb-0123abcd.d.test", "8080-SB-0123ABCD.D.TEST.:80", "x.d.test", "", ":", "[::1]:80"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name, below, err := ParseHost(host, "d.test")
		if err != nil || !below {
			return
		}
		written := name.Host("d.test")
		if !strings.HasPrefix(strings.ToLower(host), written) {
			t.Errorf("%q is read as %s", host, written)
		}
	})
}
