package usage

import (
	"fmt"
	"strings"
	"time"
)

const (
	microsPerSecond = 1_000_000
	nanosPerMicro   = 1_000
	nanosPerUnit    = 1_000_000_000
)

// Quantity is so many of something for so long, in units times seconds. It is exact: times are whole microseconds, as Postgres keeps them.
type Quantity struct {
	Seconds int64 // units times seconds
	Micros  int64 // and units times microseconds, less than a million of them
}

func times(units int64, d time.Duration) Quantity {
	whole, rest := d.Microseconds()/microsPerSecond, d.Microseconds()%microsPerSecond
	return Quantity{Seconds: units * whole}.Plus(Quantity{Micros: units * rest})
}

// Plus returns what q and r are together.
func (q Quantity) Plus(r Quantity) Quantity {
	micros := q.Micros + r.Micros
	return Quantity{Seconds: q.Seconds + r.Seconds + micros/microsPerSecond, Micros: micros % microsPerSecond}
}

// What a Quantity of MiB, or of processors, is divided by to be one of something larger.
const (
	UnitSeconds int64 = 1           // of processors: vCPU-seconds
	GiBSeconds  int64 = 1024        // of MiB
	GiBHours    int64 = 1024 * 3600 // of MiB
)

// Per returns a quantity in units that are n times as large, rounded down to a billionth.
func (q Quantity) Per(n int64) Decimal {
	rest := q.Seconds % n
	return Decimal{Whole: q.Seconds / n, Nanos: (rest*nanosPerUnit + q.Micros*nanosPerMicro) / n}
}

// Decimal is a number with nine digits behind the point.
type Decimal struct{ Whole, Nanos int64 }

// Minus returns d without e, which must not be larger.
func (d Decimal) Minus(e Decimal) Decimal {
	d.Whole -= e.Whole
	if d.Nanos -= e.Nanos; d.Nanos < 0 {
		d.Whole, d.Nanos = d.Whole-1, d.Nanos+nanosPerUnit
	}
	return d
}

// String is the number without zeros at its end.
func (d Decimal) String() string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%09d", d.Whole, d.Nanos), "0"), ".")
}

// MarshalJSON writes the number with all its digits.
func (d Decimal) MarshalJSON() ([]byte, error) { return []byte(d.String()), nil }
