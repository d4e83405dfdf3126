package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/interpreter"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	defaultLanguage = "python"
	// maxResults and maxResultBytes bound the results of an execution that is not streamed.
	maxResults, maxResultBytes = 64, 16 << 20
)

// contextRequest is the schema CreateContext.
type contextRequest struct {
	Language string            `json:"language"`
	Cwd      string            `json:"cwd"`
	Env      map[string]string `json:"env"`
	User     string            `json:"user"`
}

// contextView is the schema Context.
type contextView struct {
	ID        id.Context `json:"id"`
	Language  string     `json:"language"`
	Cwd       *string    `json:"cwd"`
	User      string     `json:"user"`
	PID       uint32     `json:"pid"`
	CreatedAt apiTime    `json:"created_at"`
}

func viewOfContext(c interpreter.Context) contextView {
	return contextView{ID: c.ID, Language: c.Language, Cwd: orNull(c.Cwd), User: c.User, PID: c.PID, CreatedAt: apiTime(c.CreatedAt)}
}

func (s *Server) createContext(w http.ResponseWriter, r *http.Request) error {
	sb, err := plainID(r)
	if err != nil {
		return err
	}
	in := contextRequest{Language: defaultLanguage}
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	for _, err := range []error{checkText("cwd", in.Cwd, 0), checkText("user", in.User, 0), checkEnv(in.Env)} {
		if err != nil {
			return err
		}
	}
	guest, err := s.guest(r, sb)
	if err != nil {
		return err
	}
	c, err := interpreter.Create(r.Context(), guest, interpreter.New{Language: in.Language, Cwd: in.Cwd, User: in.User, Env: in.Env})
	if err != nil {
		return err
	}
	w.Header().Set("Location", r.URL.Path+"/"+string(c.ID))
	s.writeJSON(w, http.StatusCreated, viewOfContext(c))
	return nil
}

func (s *Server) listContexts(w http.ResponseWriter, r *http.Request) error {
	sb, err := plainID(r)
	if err != nil {
		return err
	}
	guest, err := s.guest(r, sb)
	if err != nil {
		return err
	}
	contexts, err := interpreter.List(r.Context(), guest)
	if err != nil {
		return err
	}
	items := []contextView{}
	for _, c := range contexts {
		items = append(items, viewOfContext(c))
	}
	s.writeJSON(w, http.StatusOK, map[string]any{"items": items})
	return nil
}

// context returns the guest and the context that a request without a query is about.
func (s *Server) context(r *http.Request) (*envdclient.Client, id.Context, error) {
	sb, err := plainID(r)
	if err != nil {
		return nil, "", err
	}
	name, err := named(chi.URLParam(r, "context"), id.ParseContext)
	if err != nil {
		return nil, "", err
	}
	guest, err := s.guest(r, sb)
	return guest, name, err
}

func (s *Server) getContext(w http.ResponseWriter, r *http.Request) error {
	guest, name, err := s.context(r)
	if err != nil {
		return err
	}
	c, err := interpreter.Find(r.Context(), guest, name)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, viewOfContext(c))
	return nil
}

func (s *Server) deleteContext(w http.ResponseWriter, r *http.Request) error {
	guest, name, err := s.context(r)
	if err != nil {
		return err
	}
	if err := interpreter.Delete(r.Context(), guest, name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) interruptContext(w http.ResponseWriter, r *http.Request) error {
	guest, name, err := s.context(r)
	if err != nil {
		return err
	}
	if err := interpreter.Interrupt(r.Context(), guest, name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// executeRequest is the schema Execute.
type executeRequest struct {
	Code    *string  `json:"code"`
	Timeout *float64 `json:"timeout_seconds"`
}

func (in executeRequest) check(limit time.Duration) (interpreter.Code, error) {
	if in.Code == nil {
		return interpreter.Code{}, models.Errorf(models.Invalid, "code is required")
	}
	timeout, err := seconds(in.Timeout, limit, maxExecSeconds)
	return interpreter.Code{Text: *in.Code, Timeout: timeout}, err
}

func (s *Server) executeCode(w http.ResponseWriter, r *http.Request) error {
	guest, name, err := s.context(r)
	if err != nil {
		return err
	}
	var in executeRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	code, err := in.check(s.Limits.Exec)
	if err != nil {
		return err
	}
	if accepts(r, eventStream) {
		return s.streamExecution(w, r, guest, name, code)
	}
	began, out := time.Now(), newExecution(s.Limits.Output)
	if err := interpreter.Execute(r.Context(), guest, name, code, out.add); err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, out.view(began))
	return nil
}

// executionView is the schema Execution.
type executionView struct {
	Status           interpreter.Status `json:"status"`
	ExecutionCount   *int               `json:"execution_count"`
	Stdout           string             `json:"stdout"`
	Stderr           string             `json:"stderr"`
	StdoutTruncated  bool               `json:"stdout_truncated"`
	StderrTruncated  bool               `json:"stderr_truncated"`
	Results          []resultView       `json:"results"`
	ResultsTruncated bool               `json:"results_truncated"`
	Error            *failureView       `json:"error"`
	DurationMS       float64            `json:"duration_ms"`
}

// resultView is the schema ExecutionResult.
type resultView struct {
	Main bool                       `json:"main"`
	Data map[string]json.RawMessage `json:"data"`
}

// failureView is the schema ExecutionError.
type failureView struct {
	Name      string   `json:"name"`
	Value     string   `json:"value"`
	Traceback []string `json:"traceback"`
}

func viewOfFailure(f interpreter.Failure) failureView {
	return failureView{Name: f.Name, Value: f.Value, Traceback: append([]string{}, f.Traceback...)}
}

// execution collects what happens while code is executed, within bounds.
type execution struct {
	result         executionView
	stdout, stderr bounded
	resultBytes    int
}

func newExecution(most int) *execution {
	return &execution{result: executionView{Results: []resultView{}}, stdout: bounded{most: most}, stderr: bounded{most: most}}
}

func (x *execution) add(event interpreter.Event) error {
	switch e := event.(type) {
	case interpreter.Stdout:
		x.stdout.add([]byte(e))
	case interpreter.Stderr:
		x.stderr.add([]byte(e))
	case interpreter.Gap:
		x.stdout.truncated, x.stderr.truncated, x.result.ResultsTruncated = true, true, true
	case interpreter.Result:
		x.addResult(e)
	case interpreter.Failure:
		failure := viewOfFailure(e)
		x.result.Error = &failure
	case interpreter.End:
		x.result.Status, x.result.ExecutionCount = e.Status, orNull(e.ExecutionCount)
	}
	return nil
}

func (x *execution) addResult(r interpreter.Result) {
	size := 0
	for _, value := range r.Data {
		size += len(value)
	}
	if len(x.result.Results) == maxResults || x.resultBytes+size > maxResultBytes {
		x.result.ResultsTruncated = true
		return
	}
	x.resultBytes += size
	x.result.Results = append(x.result.Results, resultView(r))
}

func (x *execution) view(began time.Time) executionView {
	v := x.result
	v.Stdout, v.StdoutTruncated = x.stdout.text(encodingText), x.stdout.truncated
	v.Stderr, v.StderrTruncated = x.stderr.text(encodingText), x.stderr.truncated
	v.DurationMS = float64(time.Since(began).Microseconds()) / 1000
	return v
}

// streamExecution answers with what happens as it happens. What fails before the code was accepted is an ordinary error.
func (s *Server) streamExecution(w http.ResponseWriter, r *http.Request, guest *envdclient.Client, name id.Context, code interpreter.Code) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	e, stop := s.newEvents(w), func() {}
	defer func() { stop() }()
	err := interpreter.Execute(ctx, guest, name, code, func(event interpreter.Event) error {
		if _, accepted := event.(interpreter.Accepted); accepted {
			stop = e.keepOpen(s.Limits.KeepOpen, cancel)
			return e.write(": accepted\n\n")
		}
		return relayExecution(e, event)
	})
	if err == nil || !e.begun() {
		return err
	}
	e.sendError(r, "failure", err)
	return nil
}

func relayExecution(e *events, event interpreter.Event) error {
	switch v := event.(type) {
	case interpreter.Stdout:
		e.send("stdout", map[string]string{"text": string(v)})
	case interpreter.Stderr:
		e.send("stderr", map[string]string{"text": string(v)})
	case interpreter.Gap:
		e.send("gap", map[string]uint64{"bytes": uint64(v)})
	case interpreter.Result:
		e.send("result", resultView(v))
	case interpreter.Failure:
		e.send("error", viewOfFailure(v))
	case interpreter.End:
		e.send("end", map[string]any{"status": v.Status, "execution_count": orNull(v.ExecutionCount)})
	}
	return e.failure()
}
