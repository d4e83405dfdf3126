package api

import (
	"context"
	"encoding/base64"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	maxExecSeconds = 86400
	maxOutput      = 16 << 20 // bytes of stdout, and of stderr, in a result
	// execMargin is how long a host may take beyond a program's own limit to say that it ended it.
	execMargin = 30 * time.Second

	encodingText   = "utf-8"
	encodingBase64 = "base64"
	eventStream    = "text/event-stream"
)

// execRequest is the schema Exec.
type execRequest struct {
	programRequest
	Stdin     *string  `json:"stdin"`
	Timeout   *float64 `json:"timeout_seconds"`
	MaxOutput *int     `json:"max_output_bytes"`
	Encoding  string   `json:"encoding"`
}

// execResult is the schema ExecResult.
type execResult struct {
	exitView
	Stdout          string  `json:"stdout"`
	Stderr          string  `json:"stderr"`
	StdoutTruncated bool    `json:"stdout_truncated"`
	StderrTruncated bool    `json:"stderr_truncated"`
	Encoding        string  `json:"encoding"`
	DurationMS      float64 `json:"duration_ms"`
}

// exitView is the schema ExecExit.
type exitView struct {
	ExitCode  int  `json:"exit_code"`
	Signal    int  `json:"signal"`
	TimedOut  bool `json:"timed_out"`
	OOMKilled bool `json:"oom_killed"`
}

func exit(e envdclient.Exited) exitView {
	v := exitView{ExitCode: e.Code, Signal: e.Signal, TimedOut: e.TimedOut, OOMKilled: e.OOMKilled}
	if e.Signal != 0 {
		v.ExitCode = 128 + e.Signal // as shells count
	}
	return v
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	sb, err := plainID(r)
	if err != nil {
		return err
	}
	var in execRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	command, err := in.check(s.Limits)
	if err != nil {
		return err
	}
	guest, err := s.guest(r, sb)
	if err != nil {
		return err
	}
	// The end of r's context, when the client goes away, kills the program.
	ctx, cancel := context.WithTimeout(r.Context(), command.Timeout+execMargin)
	defer cancel()
	began := time.Now()
	p, err := start(ctx, guest, command, in.Stdin)
	if err != nil {
		return err
	}
	defer p.end()
	if accepts(r, eventStream) {
		return s.stream(w, r, p)
	}
	return s.collect(w, p, &in, began)
}

// program is a program that runs in a guest, and the feeding of its input.
type program struct {
	*envdclient.Exec
	cancel context.CancelCauseFunc
	fed    chan struct{} // closed when the feeding has ended
}

// start runs command and returns when it runs. The caller calls end. The program is killed when ctx ends.
func start(ctx context.Context, guest *envdclient.Client, command envdclient.Command, stdin *string) (*program, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	run, err := guest.Exec(ctx, command)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	p := &program{Exec: run, cancel: cancel, fed: make(chan struct{})}
	go func() {
		defer close(p.fed)
		if stdin != nil {
			p.feed(ctx, []byte(*stdin))
		}
	}()
	return p, nil
}

// feed gives the program its input. Where that fails, other than by a program that has ended or reads no more, the program is
// killed for it: it would wait for the rest.
func (p *program) feed(ctx context.Context, stdin []byte) {
	err := p.WriteStdin(ctx, stdin)
	if err == nil {
		err = p.CloseStdin(ctx)
	}
	if err != nil && models.CodeOf(err) != models.Precondition {
		p.cancel(err)
	}
}

// end kills the program if it still runs, and returns when nothing of the call is left.
func (p *program) end() {
	_ = p.Close() // it never fails
	p.cancel(nil)
	<-p.fed
}

// check returns what to run, and gives what the request leaves open its default.
func (in *execRequest) check(l Limits) (envdclient.Command, error) {
	command, err := in.command()
	if err != nil {
		return command, err
	}
	command.Stdin = in.Stdin != nil
	if in.Encoding == "" {
		in.Encoding = encodingText
	}
	if in.Encoding != encodingText && in.Encoding != encodingBase64 {
		return command, models.Errorf(models.Invalid, "encoding must be %s or %s", encodingText, encodingBase64)
	}
	if in.MaxOutput == nil {
		in.MaxOutput = &l.Output
	}
	if *in.MaxOutput < 0 || *in.MaxOutput > maxOutput {
		return command, models.Errorf(models.Invalid, "max_output_bytes must be between 0 and %d", maxOutput)
	}
	command.Timeout, err = seconds(in.Timeout, l.Exec, maxExecSeconds)
	return command, err
}

// accepts tells whether a request asks for a kind of answer by name.
func accepts(r *http.Request, kind string) bool {
	for _, header := range r.Header.Values("Accept") {
		for _, one := range strings.Split(header, ",") {
			if k, _, err := mime.ParseMediaType(strings.TrimSpace(one)); err == nil && k == kind {
				return true
			}
		}
	}
	return false
}

// collect waits for the end of p and answers with all of it, up to the limit of output.
func (s *Server) collect(w http.ResponseWriter, p *program, in *execRequest, began time.Time) error {
	stdout, stderr, encoding := bounded{most: *in.MaxOutput}, bounded{most: *in.MaxOutput}, in.Encoding
	for {
		event, err := p.Next()
		if err != nil {
			return err
		}
		switch e := event.(type) {
		case envdclient.Stdout:
			stdout.add(e)
		case envdclient.Stderr:
			stderr.add(e)
		case envdclient.Exited:
			s.writeJSON(w, http.StatusOK, execResult{
				exitView: exit(e), Encoding: encoding, DurationMS: float64(time.Since(began).Microseconds()) / 1000,
				Stdout: stdout.text(encoding), StdoutTruncated: stdout.truncated,
				Stderr: stderr.text(encoding), StderrTruncated: stderr.truncated,
			})
			return nil
		}
	}
}

// bounded keeps the first bytes of an output. The rest is read all the same, so that the
// program is not held up.
type bounded struct {
	kept      []byte
	most      int
	truncated bool
}

func (b *bounded) add(p []byte) {
	room := b.most - len(b.kept)
	if len(p) > room {
		p, b.truncated = p[:room], true
	}
	b.kept = append(b.kept, p...)
}

func (b *bounded) text(encoding string) string {
	if encoding == encodingBase64 {
		return base64.StdEncoding.EncodeToString(b.kept)
	}
	kept := b.kept
	if b.truncated { // the limit may have cut a character
		kept = whole(kept)
	}
	return strings.ToValidUTF8(string(kept), "\uFFFD")
}

// whole leaves out the begin of a character at the end of p.
func whole(p []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if last := p[len(p)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return p[:len(p)-n]
			}
			return p
		}
	}
	return p
}
