package controller

import (
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Kinds of operations beside those that have states of their own.
const (
	forkOp    lifecycle.Operation = "fork"
	keepOp    lifecycle.Operation = "snapshot"
	discardOp lifecycle.Operation = "snapshot_delete"
	networkOp lifecycle.Operation = "network"
)

// Meter counts and times operations. The zero value does not.
type Meter struct {
	operations metrics.Counter
	durations  metrics.Timer
	moves      metrics.Counter
}

// NewMeter returns a meter that s tells of.
func NewMeter(s *metrics.Set) Meter {
	return Meter{
		operations: s.Counter("operations_total", "Operations on sandboxes that have ended here, asked for or not, by kind and outcome: ok, or the code of the error.", "kind", "outcome"),
		durations:  s.Timer("operation_duration_seconds", "How long those took, whatever came of them.", "kind"),
		moves:      s.Counter("create_moves_total", "Creates that went on to another host, by the code of the error of the one before.", "code"),
	}
}

func (m Meter) observe(op lifecycle.Operation, err error, took time.Duration) {
	result := "ok"
	if err != nil {
		result = string(models.CodeOf(err))
	}
	m.operations.Add(1, string(op), result)
	m.durations.Observe(took, string(op))
}

// moved counts a create that its host could not carry out, and that goes on to another one.
func (m Meter) moved(why models.Code) { m.moves.Add(1, string(why)) }
