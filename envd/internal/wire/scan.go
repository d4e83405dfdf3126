package wire

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads the pieces of JSON (RFC 8259) one after the other.
type scanner struct {
	data []byte
	pos  int
}

func (s *scanner) fail(what string) error {
	return fmt.Errorf("byte %d of the message: %s", s.pos, what)
}

// peek returns the next byte after white space, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// accept passes over c if it comes next.
func (s *scanner) accept(c byte) bool {
	if s.peek() != c || s.pos == len(s.data) {
		return false
	}
	s.pos++
	return true
}

// literal passes over a word if it comes next.
func (s *scanner) literal(word string) bool {
	s.peek()
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return false
	}
	s.pos += len(word)
	return true
}

func (s *scanner) null() bool { return s.literal("null") }

// object reads an object, and leaves the value of each of its members to member.
func (s *scanner) object(member func(name string) error) error {
	return s.sequence('{', '}', func() error {
		name, err := s.text()
		if err != nil {
			return err
		}
		if !s.accept(':') {
			return s.fail("a colon was expected")
		}
		return member(name)
	})
}

func (s *scanner) array(element func() error) error { return s.sequence('[', ']', element) }

func (s *scanner) sequence(open, end byte, element func() error) error {
	if !s.accept(open) {
		return s.fail(fmt.Sprintf("a %q was expected", open))
	}
	if s.accept(end) {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if s.accept(end) {
			return nil
		}
		if !s.accept(',') {
			return s.fail(fmt.Sprintf("a comma or a %q was expected", end))
		}
	}
}

// skip passes over a value of any kind.
func (s *scanner) skip(depth int) error {
	if depth <= 0 {
		return s.fail("the message is nested too deeply")
	}
	switch c := s.peek(); {
	case c == '{':
		return s.object(func(string) error { return s.skip(depth - 1) })
	case c == '[':
		return s.array(func() error { return s.skip(depth - 1) })
	case c == '"':
		_, err := s.rawText()
		return err
	case s.literal("true") || s.literal("false") || s.null():
		return nil
	}
	_, err := s.number()
	return err
}

// number reads a number as it is written.
func (s *scanner) number() (string, error) {
	s.peek()
	start := s.pos
	if s.at('-') {
		s.pos++
	}
	leading := s.pos
	if s.digits() == 0 || s.data[leading] == '0' && s.pos > leading+1 {
		return "", s.fail("a number was expected")
	}
	if s.at('.') {
		s.pos++
		if s.digits() == 0 {
			return "", s.fail("a number has no digit after its point")
		}
	}
	if s.at('e') || s.at('E') {
		s.pos++
		if s.at('+') || s.at('-') {
			s.pos++
		}
		if s.digits() == 0 {
			return "", s.fail("a number has an empty exponent")
		}
	}
	return string(s.data[start:s.pos]), nil
}

func (s *scanner) at(c byte) bool { return s.pos < len(s.data) && s.data[s.pos] == c }

func (s *scanner) digits() (n int) {
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
		n++
	}
	return n
}

func (s *scanner) text() (string, error) {
	raw, err := s.rawText()
	return string(raw), err
}

// rawText reads a string. What it returns may be a part of the input.
func (s *scanner) rawText() ([]byte, error) {
	if !s.accept('"') {
		return nil, s.fail("a string was expected")
	}
	start := s.pos
	for ; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.valid(s.data[start : s.pos-1])
		case c == '\\':
			return s.escaped(bytes.Clone(s.data[start:s.pos]))
		case c < ' ':
			return nil, s.fail("a string has a control character in it")
		}
	}
	return nil, s.fail("a string does not end")
}

func (s *scanner) valid(text []byte) ([]byte, error) {
	if !utf8.Valid(text) {
		return nil, s.fail("a string is not valid UTF-8")
	}
	return text, nil
}

// escaped reads the rest of a string that has escapes.
func (s *scanner) escaped(text []byte) ([]byte, error) {
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		s.pos++
		switch {
		case c == '"':
			return s.valid(text)
		case c < ' ':
			return nil, s.fail("a string has a control character in it")
		case c != '\\':
			text = append(text, c)
			continue
		}
		r, err := s.escape()
		if err != nil {
			return nil, err
		}
		text = utf8.AppendRune(text, r)
	}
	return nil, s.fail("a string does not end")
}

// escape reads what follows a backslash.
func (s *scanner) escape() (rune, error) {
	if s.pos == len(s.data) {
		return 0, s.fail("a string does not end")
	}
	c := s.data[s.pos]
	s.pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return s.codePoint()
	}
	return 0, s.fail("a string has an unknown escape")
}

// codePoint reads four hexadecimal digits, and four more if those are half of a surrogate pair.
func (s *scanner) codePoint() (rune, error) {
	r, err := s.hex()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !bytes.HasPrefix(s.data[s.pos:], []byte(`\u`)) {
		return 0, s.fail("a string has half a surrogate pair")
	}
	s.pos += 2
	low, err := s.hex()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, s.fail("a string has half a surrogate pair")
	}
	return r, nil
}

func (s *scanner) hex() (rune, error) {
	if len(s.data)-s.pos < 4 {
		return 0, s.fail("a string has an escape that is cut off")
	}
	n, err := strconv.ParseUint(string(s.data[s.pos:s.pos+4]), 16, 16)
	if err != nil {
		return 0, s.fail("a string has an escape that is not hexadecimal")
	}
	s.pos += 4
	return rune(n), nil
}
