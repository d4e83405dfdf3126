package db

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/db/dbgen"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func sandbox(r dbgen.Sandbox) (models.Sandbox, error) {
	sb := models.Sandbox{
		ID: id.Sandbox(r.ID), Account: id.Account(r.AccountID), Name: r.Name, Template: r.Template,
		Size:  models.Size{VCPUs: int(r.VCPUs), MemoryMiB: int(r.MemoryMiB), DiskMiB: int(r.DiskMiB)},
		State: r.State, Generation: r.Generation, Reason: r.Reason,
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		StartedAt: orZero(r.StartedAt), Deadline: orZero(r.Deadline),
	}
	if r.HostID != nil {
		sb.Host = id.Host(*r.HostID)
	}
	if r.ParentID != nil {
		sb.Parent = id.Sandbox(*r.ParentID)
	}
	if r.SnapshotID != nil {
		sb.Snapshot = id.Snapshot(*r.SnapshotID)
	}
	if err := json.Unmarshal(r.Metadata, &sb.Metadata); err != nil {
		return sb, fmt.Errorf("decode metadata of %s: %w", r.ID, err)
	}
	steps, err := decodeSteps(r.Timings)
	if err != nil {
		return sb, fmt.Errorf("decode timings of %s: %w", r.ID, err)
	}
	sb.Steps = steps
	if sb.Network, err = decodeNetwork(r.Network); err != nil {
		return sb, fmt.Errorf("decode the network policy of %s: %w", r.ID, err)
	}
	sb.Network.Generation, sb.AutoResume = r.NetworkGeneration, r.AutoResume
	if sb.Resumed, err = decodeCertificate(r.Certificate); err != nil {
		return sb, fmt.Errorf("decode the certificate of %s: %w", r.ID, err)
	}
	setLifecycle(&sb, r)
	sb.Cold = r.Cold
	if sb.Archive, err = decodeArchive(r.Archive); err != nil {
		return sb, fmt.Errorf("decode the archive of %s: %w", r.ID, err)
	}
	return sb, nil
}

// step is the form of a models.Step in the column timings.
type step struct {
	Step string  `json:"step"`
	MS   float64 `json:"ms"`
}

func encodeSteps(steps []models.Step) ([]byte, error) {
	out := make([]step, len(steps))
	for i, s := range steps {
		out[i] = step{Step: s.Name, MS: milliseconds(s.Duration)}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode timings: %w", err)
	}
	return b, nil
}

func decodeSteps(b []byte) ([]models.Step, error) {
	var in []step
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	steps := make([]models.Step, len(in))
	for i, s := range in {
		steps[i] = models.Step{Name: s.Step, Duration: duration(s.MS)}
	}
	return steps, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func duration(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func convert[R, T any](rows []R, f func(R) (T, error)) ([]T, error) {
	out := make([]T, 0, len(rows))
	for _, r := range rows {
		v, err := f(r)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// orNil returns nil for an id that is empty.
func orNil[T ~string](s T) *string {
	if s == "" {
		return nil
	}
	text := string(s)
	return &text
}

func nonNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
