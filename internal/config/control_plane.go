package config

import (
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// ControlPlane is the configuration of the control plane.
type ControlPlane struct {
	DatabaseURL string `yaml:"database_url" env:"WRENN_DATABASE_URL"` // Postgres, for pgx
	RedisURL    string `yaml:"redis_url" env:"WRENN_REDIS_URL"`       // redis://… or unix://…; "off" for none
	Listen      string `yaml:"listen" env:"WRENN_LISTEN"`             // host:port of the API
	Domain      string `yaml:"domain" env:"WRENN_DOMAIN"`             // *.domain leads here: host names of ports; empty for none
	Agent       string `yaml:"agent" env:"WRENN_AGENT"`               // host agents of this machine, separated by commas: unix:///path; "off" for none, where all hosts join
	LogFormat   string `yaml:"log_format" env:"WRENN_LOG_FORMAT"`     // text or json

	// host:port of GET /metrics, for Prometheus. It asks for no key, so nobody else should reach it; empty for none.
	MetricsListen string `yaml:"metrics_listen" env:"WRENN_METRICS_LISTEN"`

	// Private IPv4 networks that users may let their sandboxes reach; none by default.
	PrivateNetworks []string `yaml:"private_networks" env:"WRENN_PRIVATE_NETWORKS"`

	// Networks that are not public, to which webhooks may lead; none by default.
	WebhookNetworks []string `yaml:"webhook_networks" env:"WRENN_WEBHOOK_NETWORKS"`

	CreateTimeout time.Duration `yaml:"create_timeout" env:"WRENN_CREATE_TIMEOUT"` // until a new sandbox must run
	StopGrace     time.Duration `yaml:"stop_grace" env:"WRENN_STOP_GRACE"`         // that a guest has to end in order
	DrainTimeout  time.Duration `yaml:"drain_timeout" env:"WRENN_DRAIN_TIMEOUT"`   // for requests under way at the end

	// What becomes by itself of sandboxes whose creation does not say; 0: nothing.
	AutoPauseAfter     time.Duration `yaml:"auto_pause_after" env:"WRENN_AUTO_PAUSE_AFTER"`         // without use
	AutoHibernateAfter time.Duration `yaml:"auto_hibernate_after" env:"WRENN_AUTO_HIBERNATE_AFTER"` // paused
	AutoDestroyAfter   time.Duration `yaml:"auto_destroy_after" env:"WRENN_AUTO_DESTROY_AFTER"`     // asleep, or failed
	SandboxTimeout     time.Duration `yaml:"sandbox_timeout" env:"WRENN_SANDBOX_TIMEOUT"`           // from its start, whatever it does
	OnTimeout          string        `yaml:"on_timeout" env:"WRENN_ON_TIMEOUT"`                     // destroy or pause

	// How often a key may ask, by class of requests, as "class=per second:at once,…"; "off" for no limits.
	RateLimits string `yaml:"rate_limits" env:"WRENN_RATE_LIMITS"`

	// Where usage is delivered to; see lago.go.
	Lago `yaml:",inline"`

	// How many times what a host has may be promised to sandboxes; see scheduler.DefaultOvercommit.
	VCPUOvercommit   float64 `yaml:"vcpu_overcommit" env:"WRENN_VCPU_OVERCOMMIT"`
	MemoryOvercommit float64 `yaml:"memory_overcommit" env:"WRENN_MEMORY_OVERCOMMIT"`
	DiskOvercommit   float64 `yaml:"disk_overcommit" env:"WRENN_DISK_OVERCOMMIT"`
}

// domainForm is a host name of RFC 1123.
var domainForm = regexp.MustCompile(`^(?i)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// NoAgent as Agent means that no host is known beforehand.
const NoAgent = "off"

// NoRedis as RedisURL means that none is used.
const NoRedis = "off"

// LoadControlPlane returns the defaults, overridden by the file and the environment.
func LoadControlPlane() (ControlPlane, error) {
	cfg := ControlPlane{
		DatabaseURL: "postgres:///wrenn?host=/run/postgresql", RedisURL: "unix:///run/redis/redis.sock",
		Listen: "127.0.0.1:8000", Agent: "unix:///run/wrenn/agent.sock", LogFormat: "text",
		CreateTimeout: 2 * time.Minute, StopGrace: 2 * time.Second, DrainTimeout: 30 * time.Second,
		OnTimeout:      string(models.DestroyOnTimeout),
		RateLimits:     defaultRates,
		Lago:           defaultLago,
		VCPUOvercommit: 16, MemoryOvercommit: 1, DiskOvercommit: 4,
	}
	return cfg, load(&cfg)
}

// Check returns an Invalid error that names the first setting that makes no sense. URLs
// are checked by who opens them.
func (c ControlPlane) Check() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return models.Errorf(models.Invalid, "listen must be host:port, not %q", c.Listen)
	}
	if err := checkMetricsListen("metrics_listen", c.MetricsListen); err != nil {
		return err
	}
	if err := c.checkAgents(); err != nil {
		return err
	}
	if c.Domain != "" && !domainForm.MatchString(c.Domain) {
		return models.Errorf(models.Invalid, "domain must be a host name, not %q", c.Domain).WithHint("without scheme, port and asterisk")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"create_timeout", c.CreateTimeout}, {"stop_grace", c.StopGrace}, {"drain_timeout", c.DrainTimeout}} {
		if d.value <= 0 {
			return models.Errorf(models.Invalid, "%s must be above 0, not %s", d.name, d.value)
		}
	}
	for _, f := range []struct {
		name  string
		value float64
	}{{"vcpu_overcommit", c.VCPUOvercommit}, {"memory_overcommit", c.MemoryOvercommit}, {"disk_overcommit", c.DiskOvercommit}} {
		if !(f.value > 0 && f.value <= 1000) {
			return models.Errorf(models.Invalid, "%s must be above 0 and at most 1000, not %v", f.name, f.value)
		}
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return models.Errorf(models.Invalid, "log_format must be text or json, not %q", c.LogFormat)
	}
	if err := models.CheckLifecycle(c.Lifecycle()); err != nil {
		return models.Errorf(models.Invalid, "the lifecycle of sandboxes: %v", err)
	}
	if _, err := c.Rates(); err != nil {
		return err
	}
	if err := c.checkLago(); err != nil {
		return err
	}
	if _, err := c.WebhookPrefixes(); err != nil {
		return err
	}
	_, err := c.PrivatePrefixes()
	return err
}

// checkMetricsListen is for both binaries.
func checkMetricsListen(setting, address string) error {
	if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
		return models.Errorf(models.Invalid, "%s must be host:port, or empty for none, not %q", setting, address)
	}
	return nil
}

// Agents returns the addresses of the host agents that are in the settings.
func (c ControlPlane) Agents() []string {
	if c.Agent == NoAgent {
		return nil
	}
	all := strings.Split(c.Agent, ",")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

func (c ControlPlane) checkAgents() error {
	seen := map[string]bool{}
	for _, a := range c.Agents() {
		if path, isUnix := strings.CutPrefix(a, "unix://"); !isUnix || path == "" {
			return models.Errorf(models.Invalid, "agent must be unix:///path, several of them separated by commas, or off, not %q", c.Agent).
				WithHint("the agent of another machine joins by itself, with a token of control-plane host token")
		}
		if seen[a] {
			return models.Errorf(models.Invalid, "agent names %s twice", a)
		}
		seen[a] = true
	}
	return nil
}

// Lifecycle returns what becomes by itself of sandboxes whose creation does not say.
func (c ControlPlane) Lifecycle() models.Lifecycle {
	return models.Lifecycle{
		AutoPause: c.AutoPauseAfter, AutoHibernate: c.AutoHibernateAfter, AutoDestroy: c.AutoDestroyAfter,
		Timeout: c.SandboxTimeout, OnTimeout: models.TimeoutAction(c.OnTimeout),
	}
}

// PrivatePrefixes returns the private networks that users may let their sandboxes reach.
func (c ControlPlane) PrivatePrefixes() ([]netip.Prefix, error) {
	return prefixesOf("private_networks", c.PrivateNetworks)
}

// WebhookPrefixes returns the networks that are not public, to which webhooks may lead.
func (c ControlPlane) WebhookPrefixes() ([]netip.Prefix, error) {
	return prefixesOf("webhook_networks", c.WebhookNetworks)
}

func prefixesOf(setting string, texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		d, err := models.ParseDestination(text)
		if err != nil || d.Name != "" {
			return nil, models.Errorf(models.Invalid, "%s must be networks such as 10.1.0.0/16 or fd12::/32, not %q", setting, text).WithCause(err)
		}
		prefixes[i] = d.Prefix
	}
	return prefixes, nil
}
