package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestControlPlaneFromEnvironment(t *testing.T) {
	t.Setenv(FileVariable, "")
	t.Setenv("WRENN_AGENT", "unix:///x/agent.sock")
	t.Setenv("WRENN_CREATE_TIMEOUT", "7s")
	t.Setenv("WRENN_DISK_OVERCOMMIT", "1.5")
	t.Setenv("WRENN_PRIVATE_NETWORKS", "10.1.0.0/16,192.168.7.1")
	t.Setenv("WRENN_LAGO_URL", "https://lago.example")
	t.Setenv("WRENN_LAGO_API_KEY", "k")
	cfg, err := LoadControlPlane()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Agent != "unix:///x/agent.sock" || cfg.CreateTimeout != 7*time.Second || cfg.DiskOvercommit != 1.5 || cfg.Listen != "127.0.0.1:8000" ||
		cfg.LagoURL != "https://lago.example" || cfg.LagoAPIKey != "k" || cfg.LagoVCPUCode != "vcpu_seconds" {
		t.Errorf("defaults < environment gave %+v", cfg)
	}
	if err := cfg.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	if got, err := cfg.PrivatePrefixes(); err != nil || fmt.Sprint(got) != "[10.1.0.0/16 192.168.7.1/32]" {
		t.Errorf("private networks %v, %v", got, err)
	}
	cfg.Agent = "unix:///x/agent.sock, unix:///y"
	if got := cfg.Agents(); !slices.Equal(got, []string{"unix:///x/agent.sock", "unix:///y"}) || cfg.Check() != nil {
		t.Errorf("agents %q, %v", got, cfg.Check())
	}
	if cfg.Agent = NoAgent; len(cfg.Agents()) != 0 || cfg.Check() != nil {
		t.Errorf("no agents are %q, %v", cfg.Agents(), cfg.Check())
	}
	t.Setenv("WRENN_CREATE_TIMEOUT", "soon")
	if _, err := LoadControlPlane(); err == nil || !strings.Contains(err.Error(), "CreateTimeout") {
		t.Errorf("a wrong duration gave %v", err)
	}
}

func TestControlPlaneWrongValuesAreNamed(t *testing.T) {
	t.Setenv(FileVariable, "")
	for name, change := range map[string]func(*ControlPlane){
		"listen":            func(c *ControlPlane) { c.Listen = "8000" },
		"metrics_listen":    func(c *ControlPlane) { c.MetricsListen = "9464" },
		"create_timeout":    func(c *ControlPlane) { c.CreateTimeout = 0 },
		"stop_grace":        func(c *ControlPlane) { c.StopGrace = -1 },
		"drain_timeout":     func(c *ControlPlane) { c.DrainTimeout = 0 },
		"agent":             func(c *ControlPlane) { c.Agent = "unix:///a,10.0.0.7" },
		"agent names":       func(c *ControlPlane) { c.Agent = "unix:///a, unix:///a" },
		"vcpu_overcommit":   func(c *ControlPlane) { c.VCPUOvercommit = 0 },
		"memory_overcommit": func(c *ControlPlane) { c.MemoryOvercommit = -1 },
		"disk_overcommit":   func(c *ControlPlane) { c.DiskOvercommit = 1e9 },
		"auto_pause_after":  func(c *ControlPlane) { c.AutoPauseAfter = time.Second },
		"timeout_seconds":   func(c *ControlPlane) { c.SandboxTimeout = 1500 * time.Millisecond },
		"on_timeout":        func(c *ControlPlane) { c.OnTimeout = "hibernate" },
		"rate_limits":       func(c *ControlPlane) { c.RateLimits = "read=1" },
		"lago_url":          func(c *ControlPlane) { c.LagoURL, c.LagoAPIKey = "https://user@lago.example/", "k" },
		"lago_api_key":      func(c *ControlPlane) { c.LagoURL = "https://lago.example" },
		"lago_stored_code": func(c *ControlPlane) {
			c.LagoURL, c.LagoAPIKey, c.LagoStoredCode = "https://lago.example", "k", c.LagoVCPUCode
		},
		"log_format":       func(c *ControlPlane) { c.LogFormat = "xml" },
		"private_networks": func(c *ControlPlane) { c.PrivateNetworks = []string{"10.0.0.0/8", "10.0.0.1/8"} },
		"webhook_networks": func(c *ControlPlane) { c.WebhookNetworks = []string{"example.com"} },
	} {
		cfg, err := LoadControlPlane()
		if err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if err := cfg.Check(); models.CodeOf(err) != models.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: Check returned %v", name, err)
		}
	}
}

// TestWebhookNetworks: none unless the operator says so.
func TestWebhookNetworks(t *testing.T) {
	cfg, err := LoadControlPlane()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.WebhookPrefixes(); err != nil || len(got) != 0 {
		t.Errorf("by default: %v, %v", got, err)
	}
	t.Setenv("WRENN_WEBHOOK_NETWORKS", "127.0.0.1/32,fd12::/32")
	if cfg, err = LoadControlPlane(); err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.WebhookPrefixes(); err != nil || len(got) != 2 || got[1].String() != "fd12::/32" {
		t.Errorf("by the environment: %v, %v", got, err)
	}
}

func TestRates(t *testing.T) {
	for _, text := range []string{"", "read", "read=1", "read=1:2:3", "read=0:1", "read=-1:1", "read=NaN:1", "read=1:0", "read=1:x", "reed=1:1", "=1:1", "read=1:1,read=2:2", "read=1:1,", "read=1e9:1"} {
		if got, err := (ControlPlane{RateLimits: text}).Rates(); models.CodeOf(err) != models.Invalid {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	got, err := (ControlPlane{RateLimits: "create=0.5:10,guest=1000:2000"}).Rates()
	if err != nil || len(got) != 2 || got["create"] != (Rate{0.5, 10}) || got["guest"] != (Rate{1000, 2000}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := (ControlPlane{RateLimits: NoLimits}).Rates(); err != nil || len(got) != 0 {
		t.Errorf("off: %v, %v", got, err)
	}
}
