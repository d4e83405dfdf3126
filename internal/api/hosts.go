package api

import (
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// hostRoutes are those of whoever runs the service.
func (s *Server) hostRoutes(r chi.Router) {
	const host = "/hosts/{id}"
	r.Get("/hosts", s.handle(s.listHosts))
	r.Get("/hosts/audit", s.handle(s.listHostAudit))
	r.Get("/hosts/tokens", s.handle(s.listHostTokens))
	r.Post("/hosts/tokens", s.handle(s.createHostToken))
	r.Delete("/hosts/tokens/{id}", s.handle(s.revokeHostToken))
	r.Get(host, s.handle(s.getHost))
	r.Delete(host, s.handle(s.removeHost))
	r.Post(host+"/drain", s.handle(s.drainHost))
	r.Post(host+"/undrain", s.handle(s.undrainHost))
}

// hostView is the schema Host.
type hostView struct {
	ID     id.Host          `json:"id"`
	Name   string           `json:"name"`
	Addr   string           `json:"address"`
	State  models.HostState `json:"state"`
	Reason *string          `json:"state_reason"`
	Since  apiTime          `json:"state_since"`
	Drain  *drainView       `json:"drain"`

	VCPUs     roomView           `json:"vcpus"`
	MemoryMiB roomView           `json:"memory_mib"`
	DiskMiB   roomView           `json:"disk_mib"`
	Sandboxes holdsView          `json:"sandboxes"`
	Snapshots int64              `json:"snapshots"`
	Templates []hostTemplateView `json:"templates"`

	AgentVersion  string `json:"agent_version"`
	Driver        string `json:"driver"`
	DriverVersion string `json:"driver_version"`
	Accelerator   string `json:"accelerator"`
	ObjectStore   bool   `json:"object_store"`

	LastSeenAt  apiTime `json:"last_seen_at"`
	CreatedAt   apiTime `json:"created_at"`
	JoinedAt    apiTime `json:"joined_at"`
	Certificate apiTime `json:"certificate_until"`
}

// roomView is what is promised to sandboxes of what a host has; a multiple of that may be.
type roomView struct {
	Capacity   int64   `json:"capacity"`
	Overcommit float64 `json:"overcommit"`
	Promised   int64   `json:"promised"`
}

// holdsView is how many sandboxes are on a host.
type holdsView struct {
	Running  int64 `json:"running"`
	Sleeping int64 `json:"sleeping"`
}

// drainView is how far a drain has come.
type drainView struct {
	Evict   bool  `json:"evict"`
	Leaving int64 `json:"leaving"`
	Staying int64 `json:"staying"`
	Done    bool  `json:"done"`
}

type hostTemplateView struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Warm   bool   `json:"warm"`
}

func (s *Server) viewOfHost(h db.HeldHost) hostView {
	over := s.Controller.Overcommit
	v := hostView{
		ID: h.ID, Name: h.Name, Addr: h.Address, State: h.State(), Since: apiTime(h.Since), Drain: viewOfDrain(h),
		VCPUs:     roomView{int64(h.VCPUs), over.VCPU, h.Use.VCPUs},
		MemoryMiB: roomView{h.MemoryMiB, over.Memory, h.Use.MemoryMiB + h.Use.Sandboxes*h.OverheadMiB},
		DiskMiB:   roomView{h.DiskMiB, over.Disk, h.Use.DiskMiB},
		Sandboxes: holdsView{h.Holds.Running, h.Holds.Sleeping}, Snapshots: h.Holds.Snapshots, Templates: []hostTemplateView{},
		AgentVersion: h.AgentVersion, Driver: h.Driver, DriverVersion: h.DriverVersion, Accelerator: h.Accelerator, ObjectStore: h.Archive,
		LastSeenAt: apiTime(h.LastSeenAt), CreatedAt: apiTime(h.CreatedAt), JoinedAt: apiTime(h.JoinedAt),
	}
	for _, t := range h.Templates {
		v.Templates = append(v.Templates, hostTemplateView{t.Name, t.Digest, t.Warm})
	}
	here, _ := s.Controller.Fleet.StatusOf(h.ID) // of one that is not known here nothing more is known
	v.Certificate = apiTime(here.CertificateUntil)
	v.Reason = orNull(reasonOf(h, here.Err))
	return v
}

// reasonOf says why a host is in its state, as far as that is known; err is why it cannot be reached from here.
func reasonOf(h db.HeldHost, err error) string {
	switch state := h.State(); {
	case state == models.HostDown && err != nil:
		return err.Error()
	case state == models.HostQuarantined:
		return h.Quarantine
	case state == models.HostDraining && !h.Archive && h.Holds.Sleeping > 0:
		return "it has no object store: what sleeps there cannot leave"
	default:
		return ""
	}
}

func viewOfDrain(h db.HeldHost) *drainView {
	if !h.Draining {
		return nil
	}
	d := drainView{Evict: h.Evict, Leaving: h.Holds.Sleeping}
	if h.Evict {
		d.Leaving += h.Holds.Running
	} else {
		d.Staying = h.Holds.Running
	}
	d.Done = d.Leaving == 0
	return &d
}

// hostStates are those that a list can be asked for.
var hostStates = []models.HostState{models.HostReady, models.HostDraining, models.HostQuarantined, models.HostDown}

func (s *Server) listHosts(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"limit", "cursor"}, "state")
	if err != nil {
		return err
	}
	var f db.HostFilter
	for _, text := range q["state"] {
		state := models.HostState(text)
		if !slices.Contains(hostStates, state) {
			return models.Errorf(models.Invalid, "there is no state %q of hosts", text).WithHint("there are: %s", joined(hostStates))
		}
		f.States = append(f.States, state)
	}
	if f.Limit, f.Before, f.BeforeID, err = pageAsked(q, id.ParseHost); err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.PageOfHosts(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, s.viewOfHost, func(h db.HeldHost) string { return encodeCursor(h.CreatedAt, h.ID) }))
	return nil
}

func (s *Server) getHost(w http.ResponseWriter, r *http.Request) error {
	h, err := plain(r, id.ParseHost)
	if err != nil {
		return err
	}
	return s.writeHost(w, r, h)
}

func (s *Server) writeHost(w http.ResponseWriter, r *http.Request, h id.Host) error {
	found, err := s.Store.HeldHost(r.Context(), h)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, s.viewOfHost(found))
	return nil
}
