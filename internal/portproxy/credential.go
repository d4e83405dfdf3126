package portproxy

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Where a port's token may be, and the header of an API key.
const (
	HeaderToken = "X-Wrenn-Port-Token"
	QueryToken  = "wrenn_port_token"
	CookieToken = "wrenn_port_token"
	headerKey   = "X-Api-Key"
)

// keyMark is how API keys begin.
const keyMark = "wrn_"

// Tokens returns the port tokens that a request brings, in header, query and cookies.
func Tokens(r *http.Request) []string {
	tokens := append(slices.Clone(r.Header.Values(HeaderToken)), QueryTokens(r)...)
	for _, cookie := range r.CookiesNamed(CookieToken) {
		tokens = append(tokens, cookie.Value)
	}
	return tokens
}

// QueryTokens returns those in the query.
func QueryTokens(r *http.Request) []string { return r.URL.Query()[QueryToken] }

// strip takes the credentials of the platform out of a request's header.
func strip(h http.Header) {
	h.Del(headerKey)
	h.Del(HeaderToken)
	if slices.ContainsFunc(h.Values("Authorization"), holdsKey) {
		h.Del("Authorization")
	}
	if cookies := h.Values("Cookie"); len(cookies) > 0 {
		h.Del("Cookie")
		if rest := withoutCookie(cookies); rest != "" {
			h.Set("Cookie", rest)
		}
	}
	if referer := h.Get("Referer"); strings.Contains(referer, QueryToken) {
		h.Del("Referer")
	}
}

// holdsKey tells whether an Authorization holds an API key, as it is or as a part of Basic credentials.
func holdsKey(authorization string) bool {
	_, credentials, _ := strings.Cut(authorization, " ")
	plain, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(credentials)) // what is none holds none
	return strings.Contains(authorization, keyMark) || strings.Contains(string(plain), keyMark)
}

// withoutCookie leaves the cookies of others as they are.
func withoutCookie(headers []string) string {
	var kept []string
	for _, header := range headers {
		for pair := range strings.SplitSeq(header, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if strings.TrimSpace(name) != CookieToken {
				kept = append(kept, strings.TrimSpace(pair))
			}
		}
	}
	return strings.Join(kept, "; ")
}

// withoutToken leaves the rest of a query as it is, to the letter.
func withoutToken(query string) string {
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); err != nil || plain != QueryToken {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

// WithoutToken returns where a request was sent to, without the port's token in its query.
func WithoutToken(r *http.Request) string {
	u := *r.URL
	u.Scheme, u.Host, u.RawQuery = Scheme(r), r.Host, withoutToken(r.URL.RawQuery)
	return u.String()
}
