package api

import (
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// programRequest is what the schemas Exec and StartProcess have in common.
type programRequest struct {
	Cmd   string            `json:"cmd"`
	Args  []string          `json:"args"`
	Shell string            `json:"shell"`
	Cwd   string            `json:"cwd"`
	Env   map[string]string `json:"env"`
	User  string            `json:"user"`
}

// command returns what to run.
func (in *programRequest) command() (envdclient.Command, error) {
	c := envdclient.Command{Cmd: in.Cmd, Args: in.Args, Cwd: in.Cwd, Env: in.Env, User: in.User}
	switch {
	case (in.Cmd == "") == (in.Shell == ""):
		return c, models.Errorf(models.Invalid, "give either cmd or shell").
			WithHint(`{"cmd":"ls","args":["-l"]} or {"shell":"ls -l | head"}`)
	case in.Shell != "" && in.Args != nil:
		return c, models.Errorf(models.Invalid, "args belong to cmd, not to shell")
	case in.Shell != "":
		c.Cmd, c.Args = "/bin/sh", []string{"-c", in.Shell}
	}
	for _, err := range []error{
		checkText("cmd", in.Cmd, 0), checkText("shell", in.Shell, 0), checkText("cwd", in.Cwd, 0),
		checkText("user", in.User, 0), checkText("args", strings.Join(in.Args, ""), 0), checkEnv(in.Env),
	} {
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// seconds reads timeout_seconds; without it the limit is def.
func seconds(value *float64, def time.Duration, most int) (time.Duration, error) {
	if value == nil {
		return def, nil
	}
	if !(*value > 0 && *value <= float64(most)) {
		return 0, models.Errorf(models.Invalid, "timeout_seconds must be above 0 and at most %d", most)
	}
	return time.Duration(math.Ceil(*value * float64(time.Second))), nil
}

// boolean reads a query parameter that is false when it is not there.
func boolean(q url.Values, name string) (bool, error) {
	switch text := q.Get(name); {
	case !q.Has(name), text == "false":
		return false, nil
	case text == "true":
		return true, nil
	}
	return false, models.Errorf(models.Invalid, "%s must be true or false", name)
}
