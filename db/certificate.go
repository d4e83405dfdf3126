package db

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// certificate is the form of a models.Certificate in the column certificate.
type certificate struct {
	At    time.Time         `json:"at"`
	Steps []certificateStep `json:"steps"`
}

type certificateStep struct {
	Step   string  `json:"step"`
	Kept   bool    `json:"kept,omitempty"`
	Output string  `json:"output,omitempty"`
	MS     float64 `json:"ms"`
}

// encodeCertificate returns nil for none.
func encodeCertificate(c *models.Certificate) ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	out := certificate{At: c.At}
	for _, s := range c.Steps {
		out.Steps = append(out.Steps, certificateStep{Step: s.Name, Kept: s.Kept, Output: s.Output, MS: milliseconds(s.Duration)})
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode the certificate: %w", err)
	}
	return b, nil
}

func decodeCertificate(b []byte) (*models.Certificate, error) {
	if b == nil {
		return nil, nil
	}
	var in certificate
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	c := &models.Certificate{At: in.At}
	for _, s := range in.Steps {
		c.Steps = append(c.Steps, models.CertificateStep{Name: s.Step, Kept: s.Kept, Output: s.Output, Duration: duration(s.MS)})
	}
	return c, nil
}
