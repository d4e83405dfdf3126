package fctest

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxID is the longest instance id, MAX_INSTANCE_ID_LEN of Firecracker's src/utils/src/validators.rs.
const maxID = 64

// options are the command-line arguments that the driver may use.
type options struct {
	apiSock, id, logPath, metricsPath, level, filter string
	showLevel, version                               bool
}

// parseOptions refuses what it does not know, and what is given twice.
func parseOptions(args []string) (options, error) {
	o := options{apiSock: "/run/firecracker.socket", id: "anonymous-instance", level: "Info"}
	texts := map[string]*string{"--api-sock": &o.apiSock, "--id": &o.id, "--log-path": &o.logPath,
		"--metrics-path": &o.metricsPath, "--level": &o.level, "--seccomp-filter": &o.filter}
	flags := map[string]*bool{"--show-level": &o.showLevel, "--version": &o.version}
	for seen := map[string]bool{}; len(args) > 0; {
		name := args[0]
		args = args[1:]
		if seen[name] {
			return o, fmt.Errorf("the argument %q was provided more than once", name)
		}
		seen[name] = true
		if flag := flags[name]; flag != nil {
			*flag = true
			continue
		}
		into := texts[name]
		if into == nil {
			return o, fmt.Errorf("found argument %q which wasn't expected", name)
		}
		if len(args) == 0 || strings.HasPrefix(args[0], "--") {
			return o, fmt.Errorf("the argument %q requires a value", name)
		}
		*into, args = args[0], args[1:]
	}
	return o, o.check()
}

func (o options) check() error {
	levels := []string{"error", "warning", "warn", "info", "debug", "trace", "off"}
	if !slices.Contains(levels, strings.ToLower(o.level)) {
		return fmt.Errorf("invalid log level %q", o.level)
	}
	bad := func(r rune) bool { return r != '-' && !unicode.IsLetter(r) && !unicode.IsNumber(r) }
	if o.id == "" || len(o.id) > maxID || strings.ContainsFunc(o.id, bad) {
		return fmt.Errorf("invalid instance ID %q", o.id)
	}
	return nil
}
