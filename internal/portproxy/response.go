package portproxy

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// sandboxed is what a page in the path form may do: run, in an origin that is no one's. "allow-same-origin" is not
// there, without which it can read nothing of the API's origin and register no service worker.
const sandboxed = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"

func (t Target) response(r *http.Request, resp *http.Response) {
	h := resp.Header
	h.Del("X-Request-Id") // the platform's own is there
	if location := h.Get("Location"); location != "" {
		h.Set("Location", t.leadBack(r, location))
	}
	if t.Prefix != "" {
		confine(h)
		return
	}
	if cookies := h["Set-Cookie"]; cookies != nil {
		h["Set-Cookie"] = ownCookies(cookies)
	}
}

// confine keeps an answer in the path form from acting for the API's origin, which all sandboxes share there. Its cookies
// would go to the API and to every other sandbox; its policies for transport, storage and workers would be the API's.
func confine(h http.Header) {
	for _, name := range []string{"Set-Cookie", "Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc"} {
		h.Del(name)
	}
	h.Add("Content-Security-Policy", sandboxed) // beside the guest's own: every policy has to allow what happens
}

// ownCookies makes cookies those of the one host: with a Domain they would go to other sandboxes.
func ownCookies(cookies []string) []string {
	own := make([]string, len(cookies))
	for i, cookie := range cookies {
		attributes := slices.DeleteFunc(strings.Split(cookie, ";"), func(attribute string) bool {
			name, _, _ := strings.Cut(attribute, "=")
			return strings.EqualFold(strings.TrimSpace(name), "Domain")
		})
		own[i] = strings.Join(attributes, ";")
	}
	return own
}

// leadBack turns a location in the guest's view into one in the client's.
func (t Target) leadBack(r *http.Request, location string) string {
	u, err := url.Parse(location)
	if err != nil || u.Opaque != "" || u.Host != "" && !t.isLocal(u) {
		return location
	}
	if u.Host == "" && !strings.HasPrefix(u.Path, "/") {
		return location // relative to where it comes from
	}
	if u.Host != "" {
		u.Scheme, u.Host = Scheme(r), r.Host
	}
	if t.Prefix != "" && u.Path != t.Prefix && !strings.HasPrefix(u.Path, t.Prefix+"/") {
		escaped := t.Prefix + "/" + strings.TrimPrefix(u.EscapedPath(), "/")
		u.Path, u.RawPath = t.Prefix+"/"+strings.TrimPrefix(u.Path, "/"), escaped
	}
	return u.String()
}

// isLocal tells whether a URL leads to the port, as the guest names it.
func (t Target) isLocal(u *url.URL) bool {
	if u.Port() != strconv.Itoa(t.Port) && (u.Port() != "" || t.Port != 80) {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return strings.EqualFold(u.Hostname(), "localhost") || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}
