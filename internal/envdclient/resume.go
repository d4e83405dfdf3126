package envdclient

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Resume is what the host tells a guest that was restored from a snapshot, before anybody else may use it. What is left zero stays
// as it is; clock, randomness and token are renewed every time.
type Resume struct {
	Init                       // Token is needed; Now is taken when the guest is called
	MachineID string           // 32 hexadecimal digits
	MAC       net.HardwareAddr // of eth0
}

// Certificate says what a guest has renewed, in order.
type Certificate struct {
	Steps []Step `json:"steps"`
}

// Step is one thing that was renewed, or a hook that was run.
type Step struct {
	Name     string        `json:"name"` // clock, randomness, machine_id, hostname, mac, address, dns, token, hook:<file name>
	OK       bool          `json:"ok"`
	Kept     bool          `json:"kept,omitempty"` // nothing was asked for
	Reason   string        `json:"reason,omitempty"`
	Output   string        `json:"output,omitempty"` // of a hook, the beginning
	Duration time.Duration `json:"duration"`
}

// resumeBody is Resume on the wire.
type resumeBody struct {
	initBody
	Entropy   []byte `json:"entropy"`
	MachineID string `json:"machineId,omitempty"`
	MAC       string `json:"mac,omitempty"`
}

// resumeAnswer is Certificate on the wire.
type resumeAnswer struct {
	OK    bool `json:"ok"`
	Steps []struct {
		Name       string `json:"name"`
		OK         bool   `json:"ok"`
		Kept       bool   `json:"kept"`
		Reason     string `json:"reason"`
		Output     string `json:"output"`
		DurationUS int64  `json:"duration_us"`
	} `json:"steps"`
}

const pathResume = "/resume"

// hooksLimit is how long a guest may run its hooks: what envd's package hook allows them.
const hooksLimit = 60 * time.Second

// entropySize is how many random bytes a guest is given.
const entropySize = 64

// maxSteps is more than any guest of ours has.
const maxSteps = 64

// clockLag is how long a guest may have taken to set its clock to the time that it was sent, which is as late then. One that took longer, as its host is busy or emulates it, is sent the
// time once more: by then it answers at once.
const clockLag = 200 * time.Millisecond

// Resume has a restored guest renew what it must not share or go on with, and returns what it did, as far as it got, also with an error.
// After an error the guest must not be used: one step failed, or is missing, and the error says which. From the guest's agreement
// on, the client's token is the new one.
func (c *Client) Resume(ctx context.Context, in Resume) (Certificate, error) {
	body := resumeBody{initBody: in.body(), Entropy: make([]byte, entropySize), MachineID: in.MachineID}
	rand.Read(body.Entropy) // never fails: crypto/rand aborts the program when the system has no randomness
	if in.MAC != nil {
		body.MAC = in.MAC.String()
	}
	certificate, sent, err := c.resume(ctx, body)
	if err != nil {
		return Certificate{}, err
	}
	lag := time.Since(sent) - certificate.took()
	if err := certificate.check(in); err != nil {
		return certificate, err
	}
	c.setToken(in.Token)
	if lag > clockLag {
		err = c.Init(ctx, Init{Now: time.Now()})
	}
	return certificate, err
}

// resume sends body, whose time is that of the moment when it leaves: a guest that wakes may take a while until it takes a connection.
func (c *Client) resume(ctx context.Context, body resumeBody) (_ Certificate, sent time.Time, err error) {
	body.Timestamp = stamp(time.Now())
	data, err := json.Marshal(body)
	if err != nil {
		return Certificate{}, sent, models.Errorf(models.Invalid, "the settings of the guest cannot be sent").WithCause(err)
	}
	at := bytes.Index(data, []byte(body.Timestamp))
	resp, finish, err := c.short(whenConnected(ctx, func() {
		sent = time.Now()
		copy(data[at:], stamp(sent))
	}), http.MethodPost, pathResume, data)
	if err != nil {
		return Certificate{}, sent, err
	}
	defer finish()
	var answer resumeAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer); err != nil {
		return Certificate{}, sent, transportError(resp.Request.Context(), err)
	}
	return answer.certificate(), sent, nil
}

// stamp writes a time as the guest takes it (RFC 3339), always with as many characters.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// took is how long the guest says that all of it took.
func (c Certificate) took() (sum time.Duration) {
	for _, s := range c.Steps {
		sum += s.Duration
	}
	return sum
}

func (a resumeAnswer) certificate() Certificate {
	var c Certificate
	for _, s := range a.Steps[:min(len(a.Steps), maxSteps)] {
		c.Steps = append(c.Steps, Step{
			Name: clean(s.Name), OK: s.OK, Kept: s.Kept, Reason: clean(s.Reason), Output: clean(s.Output),
			Duration: time.Duration(s.DurationUS) * time.Microsecond,
		})
	}
	return c
}

// check holds that nothing failed, and that everything was done that in asks for.
func (c Certificate) check(in Resume) error {
	for _, s := range c.Steps {
		if !s.OK {
			return models.Errorf(models.Unavailable, "the sandbox could not be resumed: %s: %s", s.Name, s.Reason).WithHint("%s", s.Output)
		}
	}
	for name, asked := range map[string]bool{
		"clock": true, "randomness": true, "token": true, "machine_id": in.MachineID != "", "hostname": in.Hostname != "",
		"mac": in.MAC != nil, "address": in.Network != nil, "dns": in.Network != nil && len(in.Network.DNS) > 0,
	} {
		if asked && !slices.ContainsFunc(c.Steps, func(s Step) bool { return s.Name == name && !s.Kept }) {
			return models.Errorf(models.Unavailable, "the sandbox could not be resumed: its guest has not renewed %s", name)
		}
	}
	return nil
}
