package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestAccountCommands(t *testing.T) {
	setUp(t)
	command(t, "migrate", "up")
	if out := command(t, "account", "create", "acme", "--vcpus", "8", "--sandboxes", "0"); !regexp.MustCompile(`^acc-[0-9a-f]{8}\n$`).MatchString(out) {
		t.Errorf("account create printed %q", out)
	}
	command(t, "account", "pool", "acme", "--memory", "4096", "--sandboxes", "unlimited")
	line := regexp.MustCompile(`acme +0 of 8 +0 of 4096 +0 of unlimited +0 of unlimited `)
	if out := command(t, "account", "list"); !line.MatchString(out) {
		t.Errorf("account list printed %s", out)
	}
	for _, c := range []struct {
		args string
		code models.Code
	}{
		{"create acme", models.Conflict}, {"create \n", models.Invalid}, {"pool nobody --vcpus 1", models.NotFound}, {"pool acme", models.Invalid},
	} {
		verb, rest, _ := strings.Cut(c.args, " ")
		if _, err := try(t, append([]string{"account", verb}, strings.Split(rest, " ")...)...); models.CodeOf(err) != c.code {
			t.Errorf("account %q: %v, want %s", c.args, err, c.code)
		}
	}
	for _, bad := range []string{"-1", "1.5", "", "none", "99999999999999999999"} {
		if _, err := try(t, "account", "pool", "acme", "--disk", bad); err == nil {
			t.Errorf("a limit of %q is taken", bad)
		}
	}
}
