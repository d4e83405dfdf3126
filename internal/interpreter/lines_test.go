package interpreter

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
)

// linesOf returns the lines of a kernel that sends these events.
func linesOf(events ...envdclient.Event) *lines {
	return &lines{next: func() (envdclient.Event, error) {
		if len(events) == 0 {
			return nil, io.EOF
		}
		first := events[0]
		events = events[1:]
		return first, nil
	}}
}

func TestLines(t *testing.T) {
	huge := envdclient.Stdout(strings.Repeat("x", 1<<20))
	flood := []envdclient.Event{}
	for range 20 {
		flood = append(flood, huge)
	}
	for name, c := range map[string]struct {
		events []envdclient.Event
		want   string // the types of the messages, and then the error
	}{
		"cut anywhere":        {[]envdclient.Event{envdclient.Stdout(`{"type":"a`), envdclient.Stdout("\"}\n{\"type\":\"b\"}"), envdclient.Stdout("\n")}, "a b EOF"},
		"no JSON":             {[]envdclient.Event{envdclient.Stdout("hello\n{}\n[1]\n{\"type\":\"a\"}\n")}, "a EOF"},
		"end without newline": {[]envdclient.Event{envdclient.Stdout(`{"type":"a"}`)}, "EOF"},
		"gap within a line": {[]envdclient.Event{
			envdclient.Stdout(`{"type":`), envdclient.Gap{Bytes: 7}, envdclient.Stdout("\"x\"}\n{\"type\":\"b\"}\n"),
		}, "gap b EOF"},
		"exit":            {[]envdclient.Event{envdclient.Exited{Code: 3}}, "exited"},
		"an endless line": {append(flood, envdclient.Stdout("\n{\"type\":\"a\"}\n")), "a EOF"},
	} {
		l, got := linesOf(c.events...), []string{}
		for {
			m, err := l.message()
			var gap gapError
			var exited errExited
			switch {
			case errors.As(err, &gap):
				got = append(got, "gap")
				continue
			case errors.As(err, &exited):
				got = append(got, "exited")
			case err != nil:
				got = append(got, "EOF")
			default:
				got = append(got, m.Type)
				continue
			}
			break
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %s, want %s", name, text, c.want)
		}
		if cap(l.buf) > 2*maxLine {
			t.Errorf("%s: %d bytes are held", name, cap(l.buf))
		}
	}
}

// TestMessageOfNothings: a message of many empty parts would be many times as large in memory as on its way.
func TestMessageOfNothings(t *testing.T) {
	entries := make([]string, 100_000)
	for i := range entries {
		entries[i] = fmt.Sprintf(`"%x":1`, i)
	}
	for name, text := range map[string]string{
		"traceback": `{"type":"error","traceback":[""` + strings.Repeat(`,""`, 1_000_000) + "]}\n",
		"data":      `{"type":"result","data":{` + strings.Join(entries, ",") + "}}\n",
	} {
		m, err := linesOf(envdclient.Stdout(text)).message()
		if err != nil || len(m.Traceback)+len(m.Data) != map[string]int{"traceback": maxTraceback, "data": maxBundle}[name] {
			t.Errorf("%s: %q with %d lines and %d entries, %v", name, m.Type, len(m.Traceback), len(m.Data), err)
		}
	}
	text := `{"type":"result","data":{"a":[1,2],"b":"c"}}` + "\n" + `{"type":"error","traceback":["x","y"]}` + "\n"
	l := linesOf(envdclient.Stdout(text))
	result, err := l.message()
	failure, errFailure := l.message()
	if err != nil || errFailure != nil || string(result.Data["a"]) != "[1,2]" || len(result.Data) != 2 || strings.Join(failure.Traceback, "") != "xy" {
		t.Errorf("%+v, %+v; %v, %v", result, failure, err, errFailure)
	}
}

// FuzzLines: whatever a kernel writes, however it is cut, costs bounded memory and no panic.
func FuzzLines(f *testing.F) {
	f.Add("{\"type\":\"stdout\",\"text\":\"x\"}\n", 3)
	f.Add("\n\n{\"type\":1}\n{\"type\":\"result\",\"data\":{\"a\":[}}\n", 1)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		var events []envdclient.Event
		for step := max(1, cut%64); len(text) > 0; {
			n := min(step, len(text))
			events = append(events, envdclient.Stdout(text[:n]))
			text = text[n:]
		}
		l := linesOf(events...)
		for {
			if _, err := l.message(); err != nil {
				return
			}
		}
	})
}
