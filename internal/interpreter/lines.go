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
	Type           string    `json:"type"`
	ID             string    `json:"id"`
	Protocol       int       `json:"protocol"`
	Text           string    `json:"text"`
	Main           bool      `json:"main"`
	Data           bundle    `json:"data"`
	Name           string    `json:"name"`
	Value          string    `json:"value"`
	Traceback      traceback `json:"traceback"`
	Status         string    `json:"status"`
	ExecutionCount int       `json:"execution_count"`
}

// How many parts of a message are kept. It may have millions of a few bytes, each of which is many times as large in memory.
const maxBundle, maxTraceback = 256, 10_000

// bundle is a value in several forms.
type bundle map[string]json.RawMessage

// UnmarshalJSON implements json.Unmarshaler within maxBundle.
func (b *bundle) UnmarshalJSON(text []byte) error {
	dec, err := inside(text, '{')
	if dec == nil || err != nil {
		return err
	}
	*b = bundle{}
	for len(*b) < maxBundle && dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		(*b)[key.(string)] = value // keys are strings
	}
	return nil
}

// traceback is the lines of one.
type traceback []string

// UnmarshalJSON implements json.Unmarshaler within maxTraceback.
func (b *traceback) UnmarshalJSON(text []byte) error {
	dec, err := inside(text, '[')
	if dec == nil || err != nil {
		return err
	}
	for len(*b) < maxTraceback && dec.More() {
		var line string
		if err := dec.Decode(&line); err != nil {
			return err
		}
		*b = append(*b, line)
	}
	return nil
}

// inside returns a decoder behind the opening delimiter of a JSON value; nil for null.
func inside(text []byte, opening json.Delim) (*json.Decoder, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	first, err := dec.Token()
	if err != nil || first == nil {
		return nil, err
	}
	if first != opening {
		return nil, fmt.Errorf("a message has %v instead of %v", first, opening)
	}
	return dec, nil
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
