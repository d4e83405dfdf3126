package config

import (
	"net/url"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Lago is where usage is delivered to, to be billed. Without a URL it is counted, and delivered when there is one.
type Lago struct {
	LagoURL    string `yaml:"lago_url" env:"WRENN_LAGO_URL"`         // of Lago's API, such as https://api.getlago.com
	LagoAPIKey string `yaml:"lago_api_key" env:"WRENN_LAGO_API_KEY"` // of the organisation there

	// Codes of the billable metrics there, each of which sums up the property value.
	LagoVCPUCode   string `yaml:"lago_vcpu_code" env:"WRENN_LAGO_VCPU_CODE"`     // vCPU-seconds
	LagoMemoryCode string `yaml:"lago_memory_code" env:"WRENN_LAGO_MEMORY_CODE"` // GiB-seconds
	LagoStoredCode string `yaml:"lago_stored_code" env:"WRENN_LAGO_STORED_CODE"` // GiB-hours
}

var defaultLago = Lago{LagoVCPUCode: "vcpu_seconds", LagoMemoryCode: "memory_gib_seconds", LagoStoredCode: "stored_gib_hours"}

func (l Lago) checkLago() error {
	if l.LagoURL == "" {
		return nil
	}
	u, err := url.Parse(l.LagoURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return models.Errorf(models.Invalid, "lago_url must be the URL of Lago's API, such as https://api.getlago.com").WithHint("without /api/v1, user and query")
	}
	if l.LagoAPIKey == "" {
		return models.Errorf(models.Invalid, "lago_api_key must not be empty where there is a lago_url")
	}
	codes := map[string]bool{l.LagoVCPUCode: true, l.LagoMemoryCode: true, l.LagoStoredCode: true}
	if codes[""] || len(codes) != 3 {
		return models.Errorf(models.Invalid, "lago_vcpu_code, lago_memory_code and lago_stored_code must be three codes of billable metrics")
	}
	return nil
}
