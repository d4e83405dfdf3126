// Package metrics counts and times what the binaries do, and tells it to Prometheus. It is the only one that knows Prometheus' library.
//
// A label has few values, which are words of the code: no id, no name of a user's, nothing that a client can choose. So the number of series does not grow with what is done.
// The zero value of everything that counts counts nothing, so that a part which nobody measures needs no second way to go.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// prefix is what the names of all metrics of our own begin with.
const prefix = "wrenn_"

// buckets are the upper bounds of durations, in seconds: from a look-up in the database to a sandbox that comes out of the object store.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

// Set is what one process tells. Its methods may be called at the same time. Each name can be made once.
type Set struct {
	registry *prometheus.Registry
	failed   Counter
}

// New returns a set that tells of the process itself, and of which version it is.
func New(version string) *Set {
	s := &Set{registry: prometheus.NewRegistry()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + "build_info", Help: "1, with the version as a label."}, []string{"version", "go"})
	s.registry.MustRegister(build)
	build.WithLabelValues(version, runtime.Version()).Set(1)
	s.failed = s.Counter("metrics_failures_total", "Times that a part of the metrics could not be read; they are missing from the answer then.", "part")
	return s
}

// Handler answers in the text form of Prometheus, or what the client prefers to it.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{})
}

// Counter counts what has happened, by labels.
type Counter struct {
	vec *prometheus.CounterVec
}

// Counter makes a counter. Its name ends in _total.
func (s *Set) Counter(name, help string, labels ...string) Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	s.registry.MustRegister(vec)
	return Counter{vec}
}

// Add counts n more. There are as many labels as the counter was made with, in their order.
func (c Counter) Add(n int, labels ...string) {
	if c.vec != nil {
		c.vec.WithLabelValues(labels...).Add(float64(n))
	}
}

// Timer keeps how long things took, by labels, as a histogram.
type Timer struct {
	vec *prometheus.HistogramVec
}

// Timer makes a timer. Its name ends in _seconds.
func (s *Set) Timer(name, help string, labels ...string) Timer {
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets}, labels)
	s.registry.MustRegister(vec)
	return Timer{vec}
}

// Observe adds one that took so long. Labels are as with Counter.Add.
func (t Timer) Observe(took time.Duration, labels ...string) {
	if t.vec != nil {
		t.vec.WithLabelValues(labels...).Observe(took.Seconds())
	}
}
