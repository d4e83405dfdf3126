package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestLaterSourcesWin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "wrenn.yaml")
	if err := os.WriteFile(file, []byte("data: /from/file\nsubnet: 10.9.0.0/16\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(FileVariable, file)
	t.Setenv("WRENN_SUBNET", "10.8.0.0/16")
	t.Setenv("WRENN_DNS", "192.0.2.53,[2001:db8::53]:5353")
	cfg, err := LoadAgent()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Data != "/from/file" || cfg.Subnet != "10.8.0.0/16" || cfg.Driver != "auto" || len(cfg.DNS) != 2 {
		t.Errorf("defaults < file < environment gave %+v", cfg)
	}
	if err := cfg.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	if got, err := cfg.Upstreams(); err != nil || fmt.Sprint(got) != "[192.0.2.53:53 [2001:db8::53]:5353]" {
		t.Errorf("name servers %v, %v", got, err)
	}
}

func TestUnknownKeyIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "wrenn.yaml")
	if err := os.WriteFile(file, []byte("dtaa: /x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(FileVariable, file)
	if _, err := LoadAgent(); err == nil || !strings.Contains(err.Error(), "dtaa") {
		t.Errorf("an unknown key gave %v", err)
	}
}

func TestWrongValuesAreNamed(t *testing.T) {
	for name, change := range map[string]func(*Agent){
		"driver":               func(c *Agent) { c.Driver = "vmware" },
		"volume":               func(c *Agent) { c.Volume = "maybe" },
		"volume_gib":           func(c *Agent) { c.VolumeGiB = -1 },
		"jail":                 func(c *Agent) { c.Jail = "maybe" },
		"owner_base":           func(c *Agent) { c.OwnerBase = 0 },
		"cgroup":               func(c *Agent) { c.Cgroup = "../other" },
		"disk_mib_s":           func(c *Agent) { c.DiskMiBs = -1 },
		"golden_mib":           func(c *Agent) { c.GoldenMiB = -1 },
		"pool_mib":             func(c *Agent) { c.PoolMiB = -1 },
		"scrub_mib_s":          func(c *Agent) { c.ScrubMiBs = -1 },
		"scrub_every":          func(c *Agent) { c.ScrubEvery = time.Second },
		"log_format":           func(c *Agent) { c.LogFormat = "xml" },
		"agent_metrics_listen": func(c *Agent) { c.MetricsListen = "localhost" },
		"join is for":          func(c *Agent) { c.Join = "http://127.0.0.1:8000" },
		"host:port":            func(c *Agent) { c.Listen = "10.0.0.7" },
		"advertise":            func(c *Agent) { c.Listen = "0.0.0.0:9000" },
		"join must":            func(c *Agent) { c.Listen, c.Join = "10.0.0.7:9000", "control-plane:8000" },
		"subnet":               func(c *Agent) { c.Subnet = "10.0.0.1/16" },
		"dns":                  func(c *Agent) { c.DNS = []string{"example"} },
	} {
		cfg, err := LoadAgent()
		if err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if err := cfg.Check(); models.CodeOf(err) != models.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: Check returned %v", name, err)
		}
	}
}
