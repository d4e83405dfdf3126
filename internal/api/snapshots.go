package api

import (
	"net/http"
	"net/url"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// snapshotView is the schema Snapshot.
type snapshotView struct {
	ID        id.Snapshot          `json:"id"`
	Name      string               `json:"name"`
	State     models.SnapshotState `json:"state"`
	Reason    *string              `json:"state_reason"`
	Sandbox   id.Sandbox           `json:"sandbox_id"`
	Parent    *id.Snapshot         `json:"parent_id"`
	Template  string               `json:"template"`
	VCPUs     int                  `json:"vcpus"`
	MemoryMiB int                  `json:"memory_mib"`
	DiskMiB   int                  `json:"disk_mib"`
	Network   networkView          `json:"network"`
	Host      id.Host              `json:"host_id"`
	Bytes     *int64               `json:"bytes"`
	CreatedAt apiTime              `json:"created_at"`
}

func viewOfSnapshot(n models.Snapshot) snapshotView {
	return snapshotView{
		ID: n.ID, Name: n.Name, State: n.State, Reason: orNull(n.Reason), Sandbox: n.Sandbox, Parent: orNull(n.Parent), Template: n.Template,
		VCPUs: n.Size.VCPUs, MemoryMiB: n.Size.MemoryMiB, DiskMiB: n.Size.DiskMiB, Network: viewOfNetwork(n.Network), Host: n.Host,
		Bytes: orNull(n.Bytes), CreatedAt: apiTime(n.CreatedAt),
	}
}

func (s *Server) createSnapshot(w http.ResponseWriter, r *http.Request) error {
	sbID, err := plainID(r)
	if err != nil {
		return err
	}
	var in struct {
		Name string `json:"name"`
	}
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	if in.Name == "" {
		return models.Errorf(models.Invalid, "name is required")
	}
	if err := checkName(in.Name); err != nil {
		return err
	}
	made, err := s.Controller.CreateSnapshot(r.Context(), by(r), sbID, in.Name)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/snapshots/"+string(made.ID))
	s.writeJSON(w, http.StatusCreated, viewOfSnapshot(made))
	return nil
}

func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request) error {
	n, err := plain(r, id.ParseSnapshot)
	if err != nil {
		return err
	}
	found, err := s.Store.Snapshot(r.Context(), by(r).Account, n)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfSnapshot(found))
	return nil
}

func (s *Server) deleteSnapshot(w http.ResponseWriter, r *http.Request) error {
	n, err := plain(r, id.ParseSnapshot)
	if err != nil {
		return err
	}
	err = s.Controller.DeleteSnapshot(r.Context(), by(r), n)
	if claim := by(r).Claim; claim != nil && claim.CutOff && models.CodeOf(err) == models.NotFound {
		err = nil // the attempt before has deleted it
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listSnapshots(w http.ResponseWriter, r *http.Request) error {
	f, err := snapshotFilter(r)
	if err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.Snapshots(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfSnapshot, func(n models.Snapshot) string { return encodeCursor(n.CreatedAt, n.ID) }))
	return nil
}

func snapshotFilter(r *http.Request) (db.SnapshotFilter, error) {
	q, err := query(r, []string{"sandbox", "limit", "cursor"})
	if err != nil {
		return db.SnapshotFilter{}, err
	}
	f := db.SnapshotFilter{Account: by(r).Account}
	if f.Limit, err = limitAsked(q); err != nil {
		return f, err
	}
	if f.Sandbox, err = sandboxAsked(q); err != nil {
		return f, err
	}
	if q.Has("cursor") {
		f.Before, f.BeforeID, err = decodeCursor(q.Get("cursor"), id.ParseSnapshot)
	}
	return f, err
}

func sandboxAsked(q url.Values) (id.Sandbox, error) {
	if !q.Has("sandbox") {
		return "", nil
	}
	return named(q.Get("sandbox"), id.ParseSandbox)
}
