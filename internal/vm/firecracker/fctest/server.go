package fctest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"
)

// maxPayload is HTTP_MAX_PAYLOAD_SIZE of Firecracker's src/vmm/src/lib.rs.
const maxPayload = 51200

type phase int

const (
	always phase = iota
	beforeBoot
	afterBoot
)

// call is one pair of method and path.
type call struct {
	when   phase
	body   schema // nil for none allowed
	idName string // the body's property that must equal the path's id; "" for a path without one
	do     func(*machine, body) error
	get    func(*Process) any // the answer of a GET
	first  bool               // a snapshot can be loaded after it
}

// calls are all that is served: what the driver may use, and nothing else of Firecracker's API.
func calls() map[string]call {
	return map[string]call{
		"GET /":                        {get: instanceInfo},
		"GET /version":                 {get: func(p *Process) any { return map[string]any{"firecracker_version": p.Version} }},
		"GET /balloon/statistics":      {when: afterBoot, get: balloonStatistics},
		"PUT /machine-config":          {when: beforeBoot, body: machineConfig(), do: (*machine).putMachineConfig},
		"PUT /boot-source":             {when: beforeBoot, body: bootSource(), do: (*machine).putBootSource},
		"PUT /drives/{id}":             {when: beforeBoot, body: drive(), idName: "drive_id", do: (*machine).putDrive},
		"PUT /network-interfaces/{id}": {when: beforeBoot, body: networkInterface(), idName: "iface_id", do: (*machine).putNetworkInterface},
		"PUT /vsock":                   {when: beforeBoot, body: vsockDevice(), do: (*machine).putVsock},
		"PUT /entropy":                 {when: beforeBoot, body: entropyDevice(), do: (*machine).putEntropy},
		"PUT /balloon":                 {when: beforeBoot, body: balloonDevice(), do: (*machine).putBalloon},
		"PATCH /balloon":               {when: afterBoot, body: balloonUpdate(), do: (*machine).patchBalloon},
		"PUT /logger":                  {when: beforeBoot, body: logger(), do: (*machine).putLogger, first: true},
		"PUT /metrics":                 {when: beforeBoot, body: metrics(), do: (*machine).putMetrics, first: true},
		"PATCH /vm":                    {when: afterBoot, body: vmState(), do: (*machine).patchVM},
		"PUT /snapshot/create":         {when: afterBoot, body: snapshotCreate(), do: (*machine).createSnapshot},
		"PUT /snapshot/load":           {when: beforeBoot, body: snapshotLoad(), do: (*machine).loadSnapshot, first: true},
		"PUT /actions":                 {body: action(), do: (*machine).act},
	}
}

func instanceInfo(p *Process) any {
	state := "Not started"
	switch {
	case p.machine.paused:
		state = "Paused"
	case p.machine.running:
		state = "Running"
	}
	return map[string]any{"app_name": "Firecracker", "id": p.id, "state": state, "vmm_version": p.Version}
}

// balloonStatistics returns nil where the balloon keeps none.
func balloonStatistics(p *Process) any {
	b := p.machine.balloon
	if b.number("stats_polling_interval_s") == 0 {
		return nil
	}
	mib := b.number("amount_mib")
	const pages = 256 // 4 KiB pages in a MiB
	return map[string]any{"target_pages": mib * pages, "actual_pages": 0, "target_mib": mib, "actual_mib": 0}
}

func (m *machine) act(b body) error {
	switch name := b.text("action_type"); {
	case name == "InstanceStart" && m.running:
		return errAfterBoot
	case name == "InstanceStart":
		return m.start()
	case !m.running:
		return errBeforeBoot
	case name == "FlushMetrics":
		return m.flushMetrics()
	default:
		return errors.New("the guest has no keyboard")
	}
}

// flushMetrics writes one document. Without PUT /metrics it does nothing, as in Firecracker.
func (m *machine) flushMetrics() error {
	if m.metrics == nil {
		return nil
	}
	_, err := io.WriteString(dropping{m.metrics}, `{"utc_timestamp_ms":0,"vsock":{"conns_added":0}}`+"\n")
	return err
}

var (
	errAfterBoot  = errors.New("the requested operation is not supported after starting the microVM")
	errBeforeBoot = errors.New("the requested operation is not supported before starting the microVM")
)

// ServeHTTP answers one call of the API. Calls are carried out one after another.
func (p *Process) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.machine.mu.Lock()
	defer p.machine.mu.Unlock()
	answer, err := p.answer(r)
	p.record(r.Method+" "+r.URL.Path, err)
	switch {
	case err != nil:
		reply(w, http.StatusBadRequest, map[string]string{"fault_message": err.Error()})
		p.endIfFailed()
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		reply(w, http.StatusOK, answer)
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// answer carries out r. The order of checks is Firecracker's: path, id, body, phase, values.
func (p *Process) answer(r *http.Request) (any, error) {
	text, err := readBody(r)
	if err != nil {
		return nil, err
	}
	pattern, id := split(r.URL.Path)
	c, ok := p.calls[r.Method+" "+pattern]
	if !ok {
		return nil, fmt.Errorf("invalid request method and/or path: %s %s", r.Method, r.URL.Path)
	}
	if c.get != nil {
		return p.get(c, text)
	}
	b, err := c.parse(text, id)
	if err != nil {
		return nil, err
	}
	if err := p.phase(c.when); err != nil {
		return nil, err
	}
	if !c.first {
		p.machine.configured = true
	}
	return nil, c.do(p.machine, b)
}

func (p *Process) get(c call, text []byte) (any, error) {
	if len(text) > 0 {
		return nil, errors.New("a GET request cannot have a body")
	}
	if err := p.phase(c.when); err != nil {
		return nil, err
	}
	answer := c.get(p)
	if answer == nil {
		return nil, errors.New("not enabled")
	}
	return answer, nil
}

func (p *Process) phase(when phase) error {
	switch {
	case when == beforeBoot && p.machine.running:
		return errAfterBoot
	case when == afterBoot && !p.machine.running:
		return errBeforeBoot
	}
	return nil
}

func readBody(r *http.Request) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxPayload+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxPayload:
		return nil, fmt.Errorf("the request's payload is larger than the limit of %d bytes", maxPayload)
	case len(r.TransferEncoding) > 0:
		return nil, errors.New("a body needs a Content-Length")
	}
	return text, nil
}

// split returns the path as calls names it, and its id.
func split(path string) (pattern, id string) {
	for _, prefix := range []string{"/drives/", "/network-interfaces/"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return prefix + "{id}", rest
		}
	}
	return path, ""
}

func (c call) parse(text []byte, id string) (body, error) {
	if len(text) == 0 {
		return nil, errors.New("empty PUT or PATCH request")
	}
	if c.idName != "" {
		if err := checkID(id); err != nil {
			return nil, err
		}
	}
	v, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("cannot decode the body: %w", err)
	}
	b, err := c.body.check(v)
	if err != nil {
		return nil, fmt.Errorf("cannot decode the body: %w", err)
	}
	if c.idName != "" && b.text(c.idName) != id {
		return nil, fmt.Errorf("the id from the path [%s] does not match the id from the body [%s]", id, b.text(c.idName))
	}
	return b, nil
}

func checkID(id string) error {
	if id == "" {
		return errors.New("the ID cannot be empty")
	}
	bad := func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) }
	if strings.ContainsFunc(id, bad) {
		return errors.New("API resource IDs can only contain alphanumeric characters and underscores")
	}
	return nil
}
