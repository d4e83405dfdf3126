package http

import (
	"net/textproto"
	"slices"
	"strings"
)

// bodiless reports whether answers with that status have no body (RFC 9110, section 6.4.1).
func bodiless(status int) bool {
	return status < 200 || status == StatusNoContent || status == StatusNotModified
}

// trailerNames returns the names that a header announces as a trailer.
func trailerNames(h Header) []string {
	var names []string
	for _, value := range h.Values("Trailer") {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); ValidToken(name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Fields are what goes before the body: what is well-formed and not announced as a trailer.
func (h *Head) Fields(yield func(name, value string) bool) {
	for name, value := range h.Header.Fields {
		if h.sends(name) && !yield(name, value) {
			return
		}
	}
}

// sends reports whether a field is one that goes before the body. One about the connection is the version's to send.
func (h *Head) sends(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade":
		return false
	case "Content-Length":
		return h.Length >= 0
	}
	return !slices.Contains(h.Trailer, name)
}

// Fields are the fields that are well-formed.
func (h Header) Fields(yield func(name, value string) bool) {
	for name, values := range h {
		for _, value := range values {
			if ValidToken(name) && !yield(name, clean(value)) {
				return
			}
		}
	}
}

// clean makes a value of text, whatever is in it: no text of a handler's may end the line and begin another.
func clean(text string) string {
	if ValidValue(text) {
		return strings.TrimSpace(text)
	}
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text))
}
