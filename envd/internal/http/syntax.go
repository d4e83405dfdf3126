package http

import "strings"

// ValidToken reports whether text is a token, of which methods and names of fields consist (RFC 9110, section 5.6.2).
func ValidToken(text string) bool {
	for i := range len(text) {
		if !tokenByte(text[i]) {
			return false
		}
	}
	return text != ""
}

func tokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// ValidValue reports whether text may be a field's value: it has no control characters but tabs (RFC 9110, section 5.5).
func ValidValue(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// ValidHost reports whether text may be the host that a request is for.
func ValidHost(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("/?#@\\\"<>^`{|}", c) >= 0 {
			return false
		}
	}
	return true
}
