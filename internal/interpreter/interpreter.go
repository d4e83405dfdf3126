// Package interpreter runs code in contexts: interpreters in a sandbox that keep their variables.
//
// A context is a process of the guest that runs one of the templates' kernel programs and carries the context's id
// in its tag; docs/design/context-protocol.md says what is spoken over its standard input and output. Nothing about
// it is stored elsewhere, so that any control plane can serve any request.
//
// Whatever a kernel says comes from the guest and is not trusted: lines, results and their number are bounded.
package interpreter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// tagPrefix begins the tag of a context's process; the id follows.
const tagPrefix = "wrenn-context:"

// protocol is the version of docs/design/context-protocol.md that is spoken here.
const protocol = 2

// startLimit bounds the start of an interpreter. It is long because the guest may be busy.
const startLimit = 30 * time.Second

// kernels are the programs of the templates, by language; images/kernels has them.
var kernels = map[string]string{
	"python":     "/usr/local/lib/wrenn/kernel-python",
	"javascript": "/usr/local/lib/wrenn/kernel-javascript",
}

// Guest is what this package needs of a sandbox; *envdclient.Client is one.
type Guest interface {
	Start(ctx context.Context, spec envdclient.Spec) (envdclient.Process, error)
	Processes(ctx context.Context) ([]envdclient.Process, error)
	Attach(ctx context.Context, which envdclient.Selector, offset int64) (*envdclient.Attachment, error)
	SendInput(ctx context.Context, which envdclient.Selector, data []byte) error
	Signal(ctx context.Context, which envdclient.Selector, sig syscall.Signal) error
}

// Context is an interpreter that runs.
type Context struct {
	ID        id.Context
	Language  string
	Cwd, User string // as they were asked for
	PID       uint32
	CreatedAt time.Time
}

// New says what interpreter to start.
type New struct {
	Language  string // python or javascript
	Cwd, User string // empty: the defaults
	Env       map[string]string
}

// Create starts an interpreter and returns when it is ready. A language that the template has no interpreter for is
// a Precondition error.
func Create(ctx context.Context, guest Guest, n New) (Context, error) {
	kernel, known := kernels[n.Language]
	if !known {
		return Context{}, models.Errorf(models.Invalid, "language must be python or javascript, not %q", n.Language)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	name := id.NewContext()
	p, err := guest.Start(ctx, envdclient.Spec{
		Command: envdclient.Command{Cmd: kernel, Cwd: n.Cwd, Env: n.Env, User: n.User, Stdin: true},
		Tag:     tagPrefix + string(name),
	})
	if models.CodeOf(err) == models.Invalid || models.CodeOf(err) == models.NotFound {
		return Context{}, models.Errorf(models.Precondition, "%s cannot be started: %v", n.Language, models.AsError(err).Message).
			WithHint("the template may have no %s interpreter", n.Language).WithCause(err)
	}
	if err != nil {
		return Context{}, err
	}
	if err := awaitReady(ctx, guest, selector(name)); err != nil {
		_ = guest.Signal(context.WithoutCancel(ctx), selector(name), syscall.SIGKILL) // if it still is there
		return Context{}, err
	}
	return Context{ID: name, Language: n.Language, Cwd: p.Cwd, User: p.User, PID: p.PID, CreatedAt: p.StartedAt}, nil
}

func selector(name id.Context) envdclient.Selector {
	return envdclient.Selector{Tag: tagPrefix + string(name)}
}

// awaitReady reads the kernel's first event.
func awaitReady(ctx context.Context, guest Guest, which envdclient.Selector) error {
	a, err := guest.Attach(ctx, which, 0)
	if err != nil {
		return notReady(err, "")
	}
	defer a.Close()
	lines := &lines{next: a.Next}
	m, err := lines.message()
	if err == nil && (m.Type != "ready" || m.Protocol != protocol) {
		err = models.Errorf(models.Precondition, "the template's interpreter does not speak version %d of its protocol", protocol).
			WithCause(fmt.Errorf("the kernel began with %q, version %d", m.Type, m.Protocol))
	}
	if err != nil {
		return notReady(err, lines.stderr.String())
	}
	return nil
}

// notReady says why an interpreter did not start, with its own words if there are any.
func notReady(err error, said string) error {
	if said = strings.TrimSpace(said); said != "" {
		return models.Errorf(models.Precondition, "the interpreter did not start: %s", lastLine(said)).WithCause(err)
	}
	if models.CodeOf(err) == models.Internal {
		return models.Errorf(models.Unavailable, "the interpreter did not start").WithCause(err)
	}
	return err
}

func lastLine(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

// List returns the contexts of a sandbox, oldest first.
func List(ctx context.Context, guest Guest) ([]Context, error) {
	processes, err := guest.Processes(ctx)
	if err != nil {
		return nil, err
	}
	var contexts []Context
	for _, p := range processes {
		if c, ok := of(p); ok && p.Exit == nil {
			contexts = append(contexts, c)
		}
	}
	slices.SortStableFunc(contexts, func(a, b Context) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return contexts, nil
}

// of returns the context that a process is. A user's own process cannot be one: the API refuses such tags, but a
// process of the guest's root may call itself anything, and harms nobody but its own sandbox.
func of(p envdclient.Process) (Context, bool) {
	text, tagged := strings.CutPrefix(p.Tag, tagPrefix)
	name, err := id.ParseContext(text)
	if !tagged || err != nil {
		return Context{}, false
	}
	c := Context{ID: name, Cwd: p.Cwd, User: p.User, PID: p.PID, CreatedAt: p.StartedAt}
	for language, kernel := range kernels {
		if p.Cmd == kernel {
			c.Language = language
		}
	}
	return c, c.Language != ""
}

// Find returns a context, or NotFound.
func Find(ctx context.Context, guest Guest, name id.Context) (Context, error) {
	contexts, err := List(ctx, guest)
	if err != nil {
		return Context{}, err
	}
	for _, c := range contexts {
		if c.ID == name {
			return c, nil
		}
	}
	return Context{}, missing(name)
}

func missing(name id.Context) *models.Error {
	return models.Errorf(models.NotFound, "there is no context %s", name).
		WithHint("a context ends when it is deleted, when its interpreter crashes, and with its sandbox")
}

// orMissing says of a kernel that has ended, or never was, that there is no such context.
func orMissing(name id.Context, err error) error {
	if code := models.CodeOf(err); code == models.NotFound || code == models.Precondition {
		return missing(name)
	}
	return err
}

// Delete ends a context. It succeeds when there is none.
func Delete(ctx context.Context, guest Guest, name id.Context) error {
	err := orMissing(name, guest.Signal(ctx, selector(name), syscall.SIGKILL))
	if models.CodeOf(err) == models.NotFound {
		return nil
	}
	return err
}

// Interrupt interrupts what a context executes, if anything. What waits there goes on.
func Interrupt(ctx context.Context, guest Guest, name id.Context) error {
	return orMissing(name, send(ctx, guest, selector(name), request{Op: "interrupt"}))
}
