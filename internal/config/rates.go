package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// NoLimits as RateLimits means that there are none.
const NoLimits = "off"

// defaultRates suit a machine or two: many times what a program does that is not running wild.
const defaultRates = "read=500:2000,write=200:1000,create=100:1000,guest=1000:4000"

// classes are those of internal/api.
var classes = []string{"read", "write", "create", "guest"}

// Rate is a limit of a class of requests: so many at once, and from then on so many a second.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Rates returns the limits of the classes read, write, create and guest; one that is left out has none.
func (c ControlPlane) Rates() (map[string]Rate, error) {
	rates := map[string]Rate{}
	if c.RateLimits == NoLimits {
		return rates, nil
	}
	for _, text := range strings.Split(c.RateLimits, ",") {
		class, limit, ok := strings.Cut(text, "=")
		perSecond, burst, pair := strings.Cut(limit, ":")
		r, err := rate(perSecond, burst)
		if _, twice := rates[class]; !ok || !pair || err != nil || twice || !slices.Contains(classes, class) {
			return nil, models.Errorf(models.Invalid, "rate_limits must be %q or a list of class=per second:at once, not %q", NoLimits, c.RateLimits).
				WithHint("such as %s", defaultRates)
		}
		rates[class] = r
	}
	return rates, nil
}

func rate(perSecond, burst string) (r Rate, err error) {
	if r.PerSecond, err = strconv.ParseFloat(perSecond, 64); err != nil {
		return r, err
	}
	if r.Burst, err = strconv.Atoi(burst); err != nil {
		return r, err
	}
	if !(r.PerSecond >= 0.001 && r.PerSecond <= 1e6) || r.Burst < 1 || r.Burst > 1e6 {
		return r, strconv.ErrRange
	}
	return r, nil
}
