package metrics

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lookLimit bounds how long a look may hold up an answer.
const lookLimit = 5 * time.Second

// Family is a number by labels that is looked up when somebody asks.
type Family struct {
	Name, Help string
	Labels     []string
	Total      bool // it only grows while the process lives: its name ends in _total
}

// Put tells the value of a family with labels, in the order of the family's.
type Put func(name string, value float64, labels ...string)

// Look is a part of the metrics that is looked up.
type Look struct {
	Part     string        // it is called, in the log
	Keep     time.Duration // what was seen is told again for so long: what it costs does not grow with how many ask
	Families []Family
	// Read puts values of Families. When it fails nothing of the part is told: better a gap than a number that is old.
	Read func(ctx context.Context, put Put) error
}

// Look adds a part that is looked up.
func (s *Set) Look(l Look, log *slog.Logger) {
	k := &looker{Look: l, log: log, failed: s.failed, descs: map[string]*prometheus.Desc{}, kinds: map[string]prometheus.ValueType{}}
	for _, f := range l.Families {
		k.descs[f.Name] = prometheus.NewDesc(prefix+f.Name, f.Help, f.Labels, nil)
		k.kinds[f.Name] = prometheus.GaugeValue
		if f.Total {
			k.kinds[f.Name] = prometheus.CounterValue
		}
	}
	s.registry.MustRegister(k)
}

// looker is a Look as Prometheus has it.
type looker struct {
	Look
	log    *slog.Logger
	failed Counter
	descs  map[string]*prometheus.Desc // by the name of a family
	kinds  map[string]prometheus.ValueType

	mu   sync.Mutex // guards what follows, and lets one look happen at a time
	seen []prometheus.Metric
	at   time.Time
}

// Describe implements prometheus.Collector.
func (k *looker) Describe(out chan<- *prometheus.Desc) {
	for _, d := range k.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (k *looker) Collect(out chan<- prometheus.Metric) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at.IsZero() || time.Since(k.at) >= k.Keep {
		k.read()
	}
	for _, m := range k.seen {
		out <- m
	}
}

// read needs mu. What has failed is not tried again before Keep is over either.
func (k *looker) read() {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	k.seen = nil
	var found []prometheus.Metric
	err := k.Read(ctx, func(name string, value float64, labels ...string) {
		found = append(found, prometheus.MustNewConstMetric(k.descs[name], k.kinds[name], value, labels...))
	})
	k.at = time.Now()
	if err != nil {
		k.failed.Add(1, k.Part)
		k.log.Warn("a part of the metrics could not be read", "part", k.Part, "error", err)
		return
	}
	k.seen = found
}
