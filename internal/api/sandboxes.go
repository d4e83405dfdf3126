package api

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// sandboxView is the schema Sandbox.
type sandboxView struct {
	ID         id.Sandbox        `json:"id"`
	Name       *string           `json:"name"`
	Template   string            `json:"template"`
	State      models.State      `json:"state"`
	Reason     *string           `json:"state_reason"`
	VCPUs      int               `json:"vcpus"`
	MemoryMiB  int               `json:"memory_mib"`
	DiskMiB    *int              `json:"disk_mib"`
	Metadata   map[string]string `json:"metadata"`
	Network    networkView       `json:"network"`
	AutoResume bool              `json:"auto_resume"`
	Lifecycle  lifecycleView     `json:"lifecycle"`
	Host       *id.Host          `json:"host_id"`
	CreatedAt  apiTime           `json:"created_at"`
	StartedAt  apiTime           `json:"started_at"`
	UpdatedAt  apiTime           `json:"updated_at"`
	Deadline   apiTime           `json:"state_deadline"`
	Generation int64             `json:"generation"`
	Timings    []stepView        `json:"timings"`
	Resumed    *certificateView  `json:"resumed"`
	VerifiedAt apiTime           `json:"verified_at"`
	Parent     *id.Sandbox       `json:"parent_id"`
	Snapshot   *id.Snapshot      `json:"snapshot_id"`
	Archive    *archiveView      `json:"archive"`
}

type stepView struct {
	Step string  `json:"step"`
	MS   float64 `json:"ms"`
}

func view(sb models.Sandbox) sandboxView {
	v := sandboxView{
		ID: sb.ID, Name: orNull(sb.Name), Template: sb.Template, State: sb.State, Reason: orNull(sb.Reason),
		VCPUs: sb.Size.VCPUs, MemoryMiB: sb.Size.MemoryMiB, DiskMiB: orNull(sb.Size.DiskMiB),
		Metadata: sb.Metadata, Network: viewOfNetwork(sb.Network), Host: orNull(sb.Host), CreatedAt: apiTime(sb.CreatedAt), StartedAt: apiTime(sb.StartedAt),
		UpdatedAt: apiTime(sb.UpdatedAt), Deadline: apiTime(sb.Deadline), Generation: sb.Generation,
		Timings: make([]stepView, len(sb.Steps)), AutoResume: sb.AutoResume, Resumed: viewOfCertificate(sb.Resumed),
		Archive: viewOfArchive(sb.Archive), Lifecycle: viewOfLifecycle(sb), VerifiedAt: apiTime(sb.VerifiedAt),
		Parent: orNull(sb.Parent), Snapshot: orNull(sb.Snapshot),
	}
	for i, s := range sb.Steps {
		v.Timings[i] = stepView{Step: s.Name, MS: milliseconds(s.Duration)}
	}
	return v
}

// viewTold is view, with what is known of the sandbox's host.
func (s *Server) viewTold(sb models.Sandbox) sandboxView { return view(s.Controller.Told(sb)) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// createRequest is the schema CreateSandbox.
type createRequest struct {
	Template  string            `json:"template"`
	VCPUs     *int              `json:"vcpus"`
	MemoryMiB *int              `json:"memory_mib"`
	DiskMiB   int               `json:"disk_mib"`
	Env       map[string]string `json:"env"`
	Metadata  map[string]string `json:"metadata"`
	Name      string            `json:"name"`
	Network   *networkRequest   `json:"network"`

	AutoResume *bool             `json:"auto_resume"`
	Lifecycle  *lifecycleRequest `json:"lifecycle"`
	Snapshot   *string           `json:"snapshot"`
}

func (s *Server) createSandbox(w http.ResponseWriter, r *http.Request) error {
	wait, err := waitAsked(r)
	if err != nil {
		return err
	}
	var in createRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	size, err := in.check()
	if err != nil {
		return err
	}
	network, err := in.Network.newNetwork()
	if err != nil {
		return err
	}
	lifecycle, err := in.Lifecycle.change()
	if err != nil {
		return err
	}
	snapshot, err := in.origin()
	if err != nil {
		return err
	}
	sb, err := s.Controller.Create(r.Context(), by(r), controller.Request{
		Snapshot: snapshot, SameNetwork: in.Network == nil, Wait: wait,
		Template: in.Template, Size: size, Env: in.Env, Metadata: in.Metadata, Name: in.Name, Network: network,
		Lifecycle: lifecycle, ManualResume: in.AutoResume != nil && !*in.AutoResume,
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/sandboxes/"+string(sb.ID))
	s.writeJSON(w, http.StatusCreated, view(sb))
	return nil
}

// check returns the size asked for, with 0 for what was not.
func (in createRequest) check() (models.Size, error) {
	template := checkTemplate(in.Template)
	if in.Snapshot != nil {
		template = nil // see origin
	}
	for _, err := range []error{template, checkName(in.Name), checkMetadata(in.Metadata), checkEnv(in.Env)} {
		if err != nil {
			return models.Size{}, err
		}
	}
	asked := models.Size{DiskMiB: in.DiskMiB}
	full := models.Size{VCPUs: scheduler.DefaultVCPUs, MemoryMiB: scheduler.DefaultMemoryMiB, DiskMiB: in.DiskMiB}
	if in.VCPUs != nil {
		asked.VCPUs, full.VCPUs = *in.VCPUs, *in.VCPUs
	}
	if in.MemoryMiB != nil {
		asked.MemoryMiB, full.MemoryMiB = *in.MemoryMiB, *in.MemoryMiB
	}
	return asked, models.CheckSize(full) // before a zero that was asked for is taken for one that was not
}

// origin returns the snapshot that is asked for, which says what template and size are.
func (in createRequest) origin() (id.Snapshot, error) {
	if in.Snapshot == nil {
		return "", nil
	}
	for name, given := range map[string]bool{
		"template": in.Template != "", "vcpus": in.VCPUs != nil, "memory_mib": in.MemoryMiB != nil, "disk_mib": in.DiskMiB != 0,
	} {
		if given {
			return "", models.Errorf(models.Invalid, "snapshot excludes template, vcpus, memory_mib and disk_mib: they are the snapshot's").WithHint("leave out %s", name)
		}
	}
	return named(*in.Snapshot, id.ParseSnapshot)
}

func sandboxID(r *http.Request) (id.Sandbox, error) {
	return named(chi.URLParam(r, "id"), id.ParseSandbox)
}

// plainID returns the sandbox of a request that has no query.
func plainID(r *http.Request) (id.Sandbox, error) { return plain(r, id.ParseSandbox) }

// plain returns what the path of a request that has no query names.
func plain[ID ~string](r *http.Request, parse func(string) (ID, error)) (ID, error) {
	if err := noQuery(r); err != nil {
		return "", err
	}
	return named(chi.URLParam(r, "id"), parse)
}

// named is parse for what a request says.
func named[ID ~string](text string, parse func(string) (ID, error)) (ID, error) {
	name, err := parse(text)
	if err != nil {
		return "", models.Errorf(models.Invalid, "%v", err)
	}
	return name, nil
}

func (s *Server) getSandbox(w http.ResponseWriter, r *http.Request) error {
	sbID, err := plainID(r)
	if err != nil {
		return err
	}
	sb, err := s.Store.Sandbox(r.Context(), by(r).Account, sbID)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, s.viewTold(sb))
	return nil
}

func (s *Server) destroySandbox(w http.ResponseWriter, r *http.Request) error {
	return s.operate(w, r, s.Controller.Destroy)
}

func (s *Server) readLogs(w http.ResponseWriter, r *http.Request) error {
	sbID, err := plainID(r)
	if err != nil {
		return err
	}
	text, err := s.Controller.Console(r.Context(), by(r).Account, sbID)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(strings.ToValidUTF8(string(text), "\uFFFD"))) // a client that has gone needs no answer
	return nil
}

func (s *Server) listTemplates(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	hosts, err := s.Store.Hosts(r.Context())
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, map[string]any{"items": templatesOf(hosts)})
	return nil
}

// templateView is the schema Template.
type templateView struct {
	Name             string `json:"name"`
	Digest           string `json:"digest"`
	Description      string `json:"description"`
	DiskMiB          int    `json:"disk_mib"`
	DefaultVCPUs     int    `json:"default_vcpus"`
	DefaultMemoryMiB int    `json:"default_memory_mib"`
}

// templatesOf returns each template once, by name, with the sizes that a create would use.
func templatesOf(hosts []db.Host) []templateView {
	seen := map[string]bool{}
	items := []templateView{}
	for _, h := range hosts {
		for _, t := range h.Templates {
			if seen[t.Name] {
				continue
			}
			seen[t.Name] = true
			items = append(items, templateView{
				Name: t.Name, Digest: t.Digest, Description: t.Description, DiskMiB: t.DiskMiB,
				DefaultVCPUs:     orDefault(t.DefaultVCPUs, scheduler.DefaultVCPUs),
				DefaultMemoryMiB: orDefault(t.DefaultMemoryMiB, scheduler.DefaultMemoryMiB),
			})
		}
	}
	slices.SortFunc(items, func(a, b templateView) int { return strings.Compare(a.Name, b.Name) })
	return items
}
