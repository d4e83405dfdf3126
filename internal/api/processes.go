package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	maxProcessSeconds = 30 * 86400
	maxPID            = 1 << 22 // PID_MAX_LIMIT of 64-bit Linux
	maxTag            = 128     // characters
	reservedTag       = "wrenn-"
	maxTerminal       = 4096 // columns or rows
	maxSignal         = 64   // SIGRTMAX of signal(7)

	defaultWait, maxWaitSeconds = 60, 600
	// killLimit bounds the wait for the end of a program that was killed.
	killLimit = 10 * time.Second
	// inputPiece is how much of a program's input one call to the guest carries.
	inputPiece = 64 << 10
)

// processRequest is the schema StartProcess.
type processRequest struct {
	programRequest
	Stdin   bool          `json:"stdin"`
	PTY     *terminalSize `json:"pty"`
	Tag     string        `json:"tag"`
	Timeout *float64      `json:"timeout_seconds"`
}

// terminalSize is the schema TerminalSize.
type terminalSize struct {
	Cols int `json:"cols"`
	Rows int `json:"rows"`
}

func (t *terminalSize) check() error {
	if t.Cols < 1 || t.Cols > maxTerminal || t.Rows < 1 || t.Rows > maxTerminal {
		return models.Errorf(models.Invalid, "cols and rows must be between 1 and %d", maxTerminal)
	}
	return nil
}

// processView is the schema Process.
type processView struct {
	PID         uint32    `json:"pid"`
	State       string    `json:"state"`
	Tag         *string   `json:"tag"`
	Cmd         string    `json:"cmd"`
	Args        []string  `json:"args"`
	Cwd         *string   `json:"cwd"`
	User        string    `json:"user"`
	PTY         bool      `json:"pty"`
	StartedAt   apiTime   `json:"started_at"`
	OutputBytes uint64    `json:"output_bytes"`
	Exit        *exitView `json:"exit"`
}

func viewOfProcess(p envdclient.Process) processView {
	v := processView{
		PID: p.PID, State: "running", Tag: orNull(p.Tag), Cmd: p.Cmd, Args: p.Args, Cwd: orNull(p.Cwd),
		User: p.User, PTY: p.PTY, StartedAt: apiTime(p.StartedAt), OutputBytes: p.OutputBytes,
	}
	if v.Args == nil {
		v.Args = []string{}
	}
	if p.Exit != nil {
		e := exit(*p.Exit)
		v.State, v.Exit = "exited", &e
	}
	return v
}

func (s *Server) startProcess(w http.ResponseWriter, r *http.Request) error {
	sb, err := plainID(r)
	if err != nil {
		return err
	}
	var in processRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	spec, err := in.check()
	if err != nil {
		return err
	}
	guest, err := s.guest(r, sb)
	if err != nil {
		return err
	}
	if accepts(r, eventStream) {
		return s.runProcess(w, r, guest, spec)
	}
	p, err := guest.Start(r.Context(), spec)
	if err != nil {
		return err
	}
	w.Header().Set("Location", r.URL.Path+"/"+strconv.FormatUint(uint64(p.PID), 10))
	s.writeJSON(w, http.StatusCreated, viewOfProcess(p))
	return nil
}

func (in *processRequest) check() (envdclient.Spec, error) {
	command, err := in.command()
	if err != nil {
		return envdclient.Spec{}, err
	}
	command.Stdin = in.Stdin
	spec := envdclient.Spec{Command: command, Tag: in.Tag}
	if err := checkText("tag", in.Tag, maxTag); err != nil {
		return spec, err
	}
	if strings.HasPrefix(in.Tag, reservedTag) {
		return spec, models.Errorf(models.Invalid, "tags that begin with %s are taken", reservedTag)
	}
	if in.PTY != nil {
		if err := in.PTY.check(); err != nil {
			return spec, err
		}
		spec.PTY = &envdclient.Size{Cols: in.PTY.Cols, Rows: in.PTY.Rows}
	}
	spec.Timeout, err = seconds(in.Timeout, 0, maxProcessSeconds)
	return spec, err
}

func (s *Server) listProcesses(w http.ResponseWriter, r *http.Request) error {
	sb, err := sandboxID(r)
	if err != nil {
		return err
	}
	q, err := query(r, []string{"all"})
	if err != nil {
		return err
	}
	all, err := boolean(q, "all")
	if err != nil {
		return err
	}
	guest, err := s.guest(r, sb)
	if err != nil {
		return err
	}
	processes, err := guest.Processes(r.Context())
	if err != nil {
		return err
	}
	items := []processView{}
	for _, p := range processes {
		if all || p.Exit == nil {
			items = append(items, viewOfProcess(p))
		}
	}
	s.writeJSON(w, http.StatusOK, map[string]any{"items": items})
	return nil
}

// process returns the guest and the process that a request is about.
func (s *Server) process(r *http.Request) (*envdclient.Client, envdclient.Selector, error) {
	sb, which, err := processOf(r)
	if err != nil {
		return nil, which, err
	}
	guest, err := s.guest(r, sb)
	return guest, which, err
}

// processOf returns the sandbox and the process that a request's path names.
func processOf(r *http.Request) (id.Sandbox, envdclient.Selector, error) {
	sb, err := sandboxID(r)
	if err != nil {
		return "", envdclient.Selector{}, err
	}
	pid, err := strconv.ParseUint(chi.URLParam(r, "pid"), 10, 32)
	if err != nil || pid < 1 || pid > maxPID {
		return "", envdclient.Selector{}, models.Errorf(models.Invalid, "a pid is a number from 1 to %d", maxPID)
	}
	return sb, envdclient.Selector{PID: uint32(pid)}, nil
}

// plainProcess is process for a request without a query.
func (s *Server) plainProcess(r *http.Request) (*envdclient.Client, envdclient.Selector, error) {
	if err := noQuery(r); err != nil {
		return nil, envdclient.Selector{}, err
	}
	return s.process(r)
}

func (s *Server) getProcess(w http.ResponseWriter, r *http.Request) error {
	guest, which, err := s.plainProcess(r)
	if err != nil {
		return err
	}
	return s.answerProcess(w, r, guest, which)
}

// answerProcess answers with the process as it is now.
func (s *Server) answerProcess(w http.ResponseWriter, r *http.Request, guest *envdclient.Client, which envdclient.Selector) error {
	p, err := guest.Process(r.Context(), which)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfProcess(p))
	return nil
}

func (s *Server) killProcess(w http.ResponseWriter, r *http.Request) error {
	guest, which, err := s.plainProcess(r)
	if err != nil {
		return err
	}
	// A process that has ended is what was asked for.
	err = guest.Signal(r.Context(), which, syscall.SIGKILL)
	if err != nil && models.CodeOf(err) != models.Precondition {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), killLimit)
	defer cancel()
	if err := awaitEnd(ctx, guest, which); err != nil {
		return err
	}
	return s.answerProcess(w, r, guest, which)
}

func (s *Server) waitProcess(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"timeout_seconds"})
	if err != nil {
		return err
	}
	limit := float64(defaultWait)
	if text := q.Get("timeout_seconds"); text != "" {
		if limit, err = strconv.ParseFloat(text, 64); err != nil || !(limit >= 0 && limit <= maxWaitSeconds) {
			return models.Errorf(models.Invalid, "timeout_seconds must be a number from 0 to %d", maxWaitSeconds)
		}
	}
	guest, which, err := s.process(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(limit*float64(time.Second)))
	defer cancel()
	if err := awaitEnd(ctx, guest, which); err != nil && models.CodeOf(err) != models.Deadline {
		return err
	}
	return s.answerProcess(w, r, guest, which)
}

// awaitEnd waits for the end of a process, or of ctx.
func awaitEnd(ctx context.Context, guest *envdclient.Client, which envdclient.Selector) error {
	a, err := guest.Attach(ctx, which, envdclient.FromNow)
	if err != nil {
		return err
	}
	defer a.Close()
	for {
		event, err := a.Next()
		if err != nil {
			return err
		}
		if _, ended := event.(envdclient.Exited); ended {
			return nil
		}
	}
}

// signalRequest is the schema SignalProcess.
type signalRequest struct {
	Signal string `json:"signal"`
}

func (s *Server) signalProcess(w http.ResponseWriter, r *http.Request) error {
	guest, which, err := s.plainProcess(r)
	if err != nil {
		return err
	}
	var in signalRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	sig, err := in.number()
	if err != nil {
		return err
	}
	if err := guest.Signal(r.Context(), which, sig); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// number reads a name with or without SIG, or a number.
func (in signalRequest) number() (syscall.Signal, error) {
	if n, err := strconv.Atoi(in.Signal); err == nil && n >= 1 && n <= maxSignal {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(in.Signal)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, models.Errorf(models.Invalid, "there is no signal %q", in.Signal).WithHint("SIGTERM, TERM or 15")
}

func (s *Server) resizeProcess(w http.ResponseWriter, r *http.Request) error {
	guest, which, err := s.plainProcess(r)
	if err != nil {
		return err
	}
	var in terminalSize
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	if err := in.check(); err != nil {
		return err
	}
	size := envdclient.Size{Cols: in.Cols, Rows: in.Rows}
	if err := guest.Resize(r.Context(), which, size); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// processStdin passes the body on piece by piece. The guest takes each when the program has read enough of those before.
func (s *Server) processStdin(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"close"})
	if err != nil {
		return err
	}
	end, err := boolean(q, "close")
	if err != nil {
		return err
	}
	sb, which, err := processOf(r)
	if err != nil {
		return err
	}
	guest, used, err := s.connection(r, sb)
	if err != nil {
		return err
	}
	p, err := guest.Process(r.Context(), which)
	if err != nil {
		return err
	}
	send := guest.SendInput
	if p.PTY {
		send = guest.SendTerminal
	}
	given := false
	err = feed(w, r, func(b []byte) error {
		used()
		err := send(r.Context(), which, b)
		given = given || err == nil
		return err
	})
	if err != nil {
		return err
	}
	if end {
		err := guest.CloseStdin(r.Context(), which)
		if err != nil && (!given || models.CodeOf(err) != models.Precondition) { // else it has ended, by what it was given
			return err
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// feed gives the body to send piece by piece, as it comes: its client may wait for long between two of them.
func feed(w http.ResponseWriter, r *http.Request, send func([]byte) error) error {
	buf := make([]byte, inputPiece)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				// The server would wait for the rest of the body before it answers. This ends the request's context too.
				_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
				return err
			}
		}
		if err == io.EOF { // not errors.Is: a wrapped one is a broken body
			return nil
		}
		if err != nil {
			return bodyError(err)
		}
	}
}
