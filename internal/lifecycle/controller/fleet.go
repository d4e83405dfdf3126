package controller

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

const (
	// heartbeat is how often a host is asked for its capacity and templates, which may change.
	heartbeat = 10 * time.Second
	// After a failure a host is tried again soon, then more seldom.
	reconnectFirst = 50 * time.Millisecond
	reconnectMost  = 2 * time.Second
)

// HostStore is what a Fleet needs of the store.
type HostStore interface {
	Hosts(ctx context.Context) ([]db.Host, error)
	RegisterHost(ctx context.Context, h db.Host, connected bool) (db.Host, []id.Host, error)
	HeardOf(ctx context.Context, hosts []id.Host, fresh time.Duration) (ready []id.Host, err error)
	MarkUnreachable(ctx context.Context, h id.Host) error
	JoinedHosts(ctx context.Context) ([]db.Member, error)
	SigningKey(ctx context.Context, name string) ([]byte, error)
}

// Fleet keeps a connection to every host agent and knows what each host holds.
type Fleet struct {
	store HostStore
	log   *slog.Logger
	wg    sync.WaitGroup

	heard  rollCall
	onLost atomic.Pointer[func(id.Host)]
	wake   chan struct{} // something happened on a host that the reconciler should look at

	mu        sync.Mutex      // guards what follows
	beats     time.Duration   // see host; for those that join
	hosts     []*host         // it is replaced, never written to
	authority *mtls.Authority // nil before it is needed
}

// host is one agent's address and what is known of the host behind it.
type host struct {
	address string
	client  *hostclient.Client
	store   HostStore
	log     *slog.Logger
	beats   time.Duration // between heartbeats
	fleet   *Fleet

	joined id.Host         // of a host that has joined, whose certificate says so; empty for one that is in the settings
	life   context.Context // ends when the host is none of the fleet any more
	end    context.CancelFunc

	mu        sync.Mutex // guards the following
	id        id.Host    // empty until known
	reachable bool       // the watch is open
	archive   bool       // it has an object store
	answered  bool       // it was reachable at least once since this process began
	synced    bool       // seen is complete
	lastErr   error
	lostAt    time.Time // since when it cannot be reached; zero while it can
	faults    int       // creates one after the other that it has failed by its own fault
	seen      map[id.Sandbox]sighting
	news      map[id.Sandbox]bool // what has changed there and is to be compared with its row; nil where no reconciler follows the host
	anew      bool                // likewise all
}

// sighting is a sandbox on a host and since when it has been seen in this state.
type sighting struct {
	hostclient.Sandbox
	since time.Time
}

// NewFleet returns a fleet of the agents at addresses, and of the hosts that have joined. It does not connect yet.
func NewFleet(addresses []string, store HostStore, log *slog.Logger) (*Fleet, error) {
	f := &Fleet{store: store, log: log, heard: rollCall{store: store}, beats: heartbeat, wake: make(chan struct{}, 1)}
	for _, a := range addresses {
		client, err := hostclient.Dial(a)
		if err != nil {
			f.closeClients()
			return nil, err
		}
		f.hosts = append(f.hosts, f.newHost(a, client))
	}
	return f, nil
}

func (f *Fleet) newHost(address string, client *hostclient.Client) *host {
	h := &host{
		address: address, client: client, store: f.store, log: f.log.With("agent", address), beats: f.beats, fleet: f,
		seen: map[id.Sandbox]sighting{},
	}
	h.life, h.end = context.WithCancel(context.Background())
	return h
}

// all returns the hosts as they are now.
func (f *Fleet) all() []*host {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hosts
}

// Run keeps the connections until ctx ends, then closes them.
func (f *Fleet) Run(ctx context.Context) {
	for _, h := range f.all() {
		f.wg.Go(func() { h.run(ctx) })
	}
	f.followMembers(ctx)
	f.wg.Wait()
	f.closeClients()
}

func (f *Fleet) closeClients() {
	for _, h := range f.all() {
		_ = h.client.Close() // fails only when it is closed already
	}
}

// find returns a host, nil for one that is not known here.
func (f *Fleet) find(want id.Host) *host {
	for _, h := range f.all() {
		if h.known() == want {
			return h
		}
	}
	return nil
}

// Client returns the client of a host, reachable or not, or Unavailable for one whose
// agent's address is not known.
func (f *Fleet) Client(want id.Host) (*hostclient.Client, error) {
	if h := f.find(want); h != nil {
		return h.client, nil
	}
	return nil, models.Errorf(models.Unavailable, "the host %s of the sandbox is not known here", want).
		WithHint("try again when the host agent runs")
}

// whenLost has act called whenever the watch of a host has ended.
func (f *Fleet) whenLost(act func(id.Host)) { f.onLost.Store(&act) }

// reachable tells which hosts can be reached now.
func (f *Fleet) reachable() map[id.Host]bool {
	up := map[id.Host]bool{}
	for _, h := range f.all() {
		h.mu.Lock()
		up[h.id] = h.reachable
		h.mu.Unlock()
	}
	return up
}

// HostStatus tells whether a host can be reached.
type HostStatus struct {
	Address  string
	ID       id.Host // empty until known
	Up       bool    // it can be reached now
	Answered bool    // it has answered this process at least once
	Err      error   // why it cannot be reached

	CertificateUntil time.Time // the end of what it has shown here; zero for none
}

// Status tells of each host.
func (f *Fleet) Status() []HostStatus {
	hosts := f.all()
	all := make([]HostStatus, 0, len(hosts))
	for _, h := range hosts {
		all = append(all, h.status())
	}
	return all
}

// StatusOf tells of one host, and whether it is known here.
func (f *Fleet) StatusOf(want id.Host) (HostStatus, bool) {
	h := f.find(want)
	if h == nil {
		return HostStatus{}, false
	}
	return h.status(), true
}

func (h *host) status() HostStatus {
	h.mu.Lock()
	s := HostStatus{Address: h.address, ID: h.id, Up: h.reachable, Answered: h.answered, Err: h.lastErr}
	h.mu.Unlock()
	if shown := h.client.Certificate(); shown != nil {
		s.CertificateUntil = shown.NotAfter
	}
	return s
}

func (h *host) known() id.Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.id
}

// run connects, watches, and connects again, until ctx ends.
func (h *host) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.life, cancel)()
	if h.joined == "" {
		h.recall(ctx)
	}
	wait := reconnectFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := h.session(ctx)
		if ctx.Err() != nil {
			return
		}
		h.lost(ctx, err)
		if time.Since(began) > heartbeat {
			wait = reconnectFirst
		}
		pause(ctx, wait)
		wait = min(2*wait, reconnectMost)
	}
}

// recall learns from the store which host was at the address, so that requests for its
// sandboxes find their way as soon as it answers again.
func (h *host) recall(ctx context.Context) {
	all, err := h.store.Hosts(ctx)
	if err != nil {
		h.log.Warn("hosts not read from the database", "error", err)
	}
	for _, known := range all {
		if known.Address == h.address {
			h.mu.Lock()
			h.id = known.ID
			h.mu.Unlock()
		}
	}
}

// session registers the host and watches it until either fails.
func (h *host) session(ctx context.Context) error {
	info, err := h.client.Info(ctx)
	if err != nil {
		return err
	}
	if h.joined != "" && info.ID != h.joined {
		return models.Errorf(models.Forbidden, "the host %s says that it is %s", h.joined, info.ID)
	}
	if err := h.register(ctx, info, true); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := h.client.Watch(ctx)
	if err != nil {
		return err
	}
	beat := make(chan error, 1)
	go func() { beat <- h.beat(ctx, info, cancel) }()
	err = h.follow(w)
	cancel()
	if beatErr := <-beat; beatErr != nil {
		return beatErr
	}
	return err
}

func (h *host) register(ctx context.Context, info hostclient.Info, connected bool) error {
	known, replaced, err := h.store.RegisterHost(ctx, described(info, h.address), connected)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.id, h.archive = known.ID, info.Archive
	h.mu.Unlock()
	if connected {
		h.log.Info("host connected", "host_id", known.ID, "connects", known.Connects,
			"agent_version", known.AgentVersion, "driver", known.Driver, "accelerator", known.Accelerator)
	}
	for _, old := range replaced {
		h.log.Warn("another host answers at the address: what the old one held is lost", "host_id", known.ID, "replaced", old)
	}
	return nil
}

func described(i hostclient.Info, address string) db.Host {
	h := db.Host{
		ID: i.ID, Name: i.Hostname, Address: address, AgentVersion: i.AgentVersion,
		Driver: i.Driver, DriverVersion: i.DriverVersion, Accelerator: i.Accelerator,
		VCPUs: i.VCPUs, MemoryMiB: i.MemoryMiB, OverheadMiB: i.OverheadMiB, DiskMiB: i.DiskMiB, Reflinks: i.Reflinks, Archive: i.Archive,
	}
	for _, t := range i.Templates {
		h.Templates = append(h.Templates, models.Template{
			Name: t.Name, Digest: t.Digest, Description: t.Description, Warm: t.Warm,
			DiskMiB: t.Default.DiskMiB, DefaultVCPUs: t.Default.VCPUs, DefaultMemoryMiB: t.Default.MemoryMiB,
		})
	}
	return h
}

// beat asks the host for its state now and then, and ends the session when it does not
// answer: a watch alone does not notice an agent that hangs. A database that is away is no
// reason to give up the host. As long as a host is as it was registered, all that is written is that it was heard of, of many hosts at once.
func (h *host) beat(ctx context.Context, registered hostclient.Info, end context.CancelFunc) error {
	for wait := time.Duration(rand.Float64() * float64(h.beats)); pause(ctx, wait); wait = h.beats { // not all hosts at once
		info, err := h.client.Info(ctx)
		if err != nil && ctx.Err() == nil {
			end()
			return err
		}
		if err == nil {
			err = errors.Join(h.record(ctx, info, &registered), h.renew(ctx))
		}
		if models.CodeOf(err) == models.Forbidden && err != nil { // it was removed
			end()
			return err
		}
		if err != nil && ctx.Err() == nil {
			h.log.Warn("state of the host not recorded", "error", err)
		}
	}
	return nil
}

// record registers the host again where it has changed, or the store holds something else of it.
func (h *host) record(ctx context.Context, info hostclient.Info, registered *hostclient.Info) error {
	if reflect.DeepEqual(info, *registered) {
		if ready, err := h.fleet.heard.note(ctx, info.ID, h.beats); ready || err != nil {
			return err
		}
	}
	err := h.register(ctx, info, false)
	if err == nil {
		*registered = info
	}
	return err
}

// follow takes in the watch until it ends.
func (h *host) follow(w *hostclient.Watch) error {
	first := map[id.Sandbox]sighting{}
	for synced := false; ; {
		sb, sync, err := w.Next()
		switch {
		case err != nil:
			return err
		case sync:
			synced = true
			h.sync(first)
		case synced:
			h.observe(sb)
		default:
			first[sb.ID] = sighting{Sandbox: sb, since: time.Now()}
		}
	}
}

// sync replaces all that was seen by what the host holds now.
func (h *host) sync(all map[id.Sandbox]sighting) {
	h.mu.Lock()
	for sb, s := range all { // how long it has been seen survives a reconnect
		if old, ok := h.seen[sb]; ok && old.State == s.State {
			s.since = old.since
			all[sb] = s
		}
	}
	h.seen, h.synced, h.reachable, h.answered, h.lastErr, h.lostAt = all, true, true, true, nil, time.Time{}
	h.anew = h.news != nil
	h.mu.Unlock()
	h.kick()
}

func (h *host) observe(sb hostclient.Sandbox) {
	h.mu.Lock()
	old := h.seen[sb.ID]
	switch {
	case sb.State == hostclient.Gone:
		delete(h.seen, sb.ID)
	case old.State == sb.State:
		h.seen[sb.ID] = sighting{Sandbox: sb, since: old.since}
	default:
		h.seen[sb.ID] = sighting{Sandbox: sb, since: time.Now()}
	}
	if h.news != nil {
		h.news[sb.ID] = true
	}
	h.mu.Unlock()
	if sb.State == hostclient.Failed || sb.State == hostclient.Gone {
		h.kick()
	}
}

// lost notes that the host cannot be reached. What it holds is not known from then on.
func (h *host) lost(ctx context.Context, err error) {
	h.mu.Lock()
	news, known := h.reachable || h.lastErr == nil, h.id
	h.reachable, h.synced, h.lastErr = false, false, err
	if h.lostAt.IsZero() {
		h.lostAt = time.Now()
	}
	h.mu.Unlock()
	if act := h.fleet.onLost.Load(); act != nil {
		(*act)(known)
	}
	if !news {
		h.log.Debug("host still unreachable", "error", err)
		return
	}
	h.log.Warn("host cannot be reached", "host_id", known, "error", err)
	if err := h.store.MarkUnreachable(ctx, known); err != nil && ctx.Err() == nil {
		h.log.Warn("host not marked as unreachable", "host_id", known, "error", err)
	}
}

// kick wakes the reconciler, if there is one.
func (h *host) kick() {
	select {
	case h.fleet.wake <- struct{}{}:
	default:
	}
}

// view returns what the host holds, or ok false when that is not known now.
func (h *host) view() (known id.Host, seen map[id.Sandbox]sighting, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen = make(map[id.Sandbox]sighting, len(h.seen))
	for sb, s := range h.seen {
		seen[sb] = s
	}
	return h.id, seen, h.synced
}

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
