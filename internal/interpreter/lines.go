package interpreter

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
)

const (
	// maxLine bounds one message of a kernel; docs/design/context-protocol.md promises no more.
	maxLine = 16 << 20
	// maxStderr is how much of a kernel's own standard error is kept to explain its end.
	maxStderr = 4 << 10
)

// message is one line of a kernel. Fields that a type of message does not have are empty.
type message struct {
	Type           string                     `json:"type"`
	ID             string                     `json:"id"`
	Protocol       int                        `json:"protocol"`
	Text           string                     `json:"text"`
	Main           bool                       `json:"main"`
	Data           map[string]json.RawMessage `json:"data"`
	Name           string                     `json:"name"`
	Value          string                     `json:"value"`
	Traceback      []string                   `json:"traceback"`
	Status         string                     `json:"status"`
	ExecutionCount int                        `json:"execution_count"`
}

// errExited says that the kernel has ended.
type errExited struct{ envdclient.Exited }

// Error tells how.
func (e errExited) Error() string { return fmt.Sprintf("the kernel ended: %+v", e.Exited) }

// gapError says that a part of the kernel's output is missing.
type gapError struct{ bytes uint64 }

// Error tells how much.
func (e gapError) Error() string {
	return fmt.Sprintf("%d bytes of the kernel's output are missing", e.bytes)
}

// lines cuts a kernel's standard output into messages.
type lines struct {
	next   func() (envdclient.Event, error)
	buf    []byte // what was read and is not a whole line yet
	broken bool   // buf begins in the middle of a line, which is dropped
	stderr bytes.Buffer
}

// message waits for the next message. Lines that are none are dropped. A gapError is not the end: the next call goes on.
func (l *lines) message() (message, error) {
	for {
		if line, rest, whole := bytes.Cut(l.buf, []byte{'\n'}); whole {
			broken := l.broken
			l.buf, l.broken = rest, false
			var m message
			if !broken && json.Unmarshal(line, &m) == nil && m.Type != "" {
				return m, nil
			}
			continue
		}
		if err := l.read(); err != nil {
			return message{}, err
		}
	}
}

// read takes in one event.
func (l *lines) read() error {
	event, err := l.next()
	if err != nil {
		return err
	}
	switch e := event.(type) {
	case envdclient.Stdout:
		if len(l.buf)+len(e) > maxLine && bytes.IndexByte(e, '\n') < 0 {
			l.buf, l.broken = nil, true // a kernel says no such thing
			return nil
		}
		l.buf = append(l.buf, e...)
	case envdclient.Stderr:
		l.stderr.Write(e)
		l.stderr.Next(max(0, l.stderr.Len()-maxStderr))
	case envdclient.Gap:
		l.buf, l.broken = nil, true
		return gapError{e.Bytes}
	case envdclient.Exited:
		return errExited{e}
	}
	return nil
}
