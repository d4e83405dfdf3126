package webhook

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}

func TestCheckURL(t *testing.T) {
	for text, says := range map[string]string{
		"":                 "must be a URL",
		"example.com/hook": "must be a URL",
		"https:///hook":    "must be a URL",
		"https://:80/":     "must be a URL",
		"https://example.com/" + strings.Repeat("x", 2048): "must be a URL",
		"https://exa mple.com/":                            "must be a URL",
		"ftp://example.com/":                               "http",
		"file://example.com/etc/passwd":                    "http",
		"gopher://example.com/":                            "http",
		"https://me:secret@example.com/":                   "user",
		"https://example.com/#x":                           "fragment",
		"https://example.com:0/":                           "port",
		"https://example.com:65536/":                       "port",
		"http://127.0.0.2/":                                "not public",
		"http://169.254.169.254/latest":                    "not public",
		"http://10.1.2.3:8080/":                            "not public",
		"http://[::1]/":                                    "not public",
		"http://[::ffff:10.0.0.1]/":                        "not public",
		"http://[::ffff:a00:1]/":                           "not public",
		"http://[64:ff9b::a00:1]/":                         "not public",
		"http://[fe80::1%25eth0]/":                         "not public",
		"http://[fd00::1]/":                                "not public",
		"http://100.64.0.1/":                               "not public",
		"http://224.0.0.1/":                                "not public",
	} {
		if err := CheckURL(text, loopback); models.CodeOf(err) != models.Invalid || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
	for _, text := range []string{"https://example.com", "http://example.com:8080/hook?x=1", "https://1.1.1.1/", "http://127.0.0.1:9/", "http://[::ffff:127.0.0.1]:9/"} {
		if err := CheckURL(text, loopback); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestPostReachesNothingPrivate: the address is judged when a connection is made, whatever it was written as; no proxy and no redirect is a way around that.
func TestPostReachesNothingPrivate(t *testing.T) {
	reached := 0
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	defer inside.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(inside.URL, "http://"), ":")
	t.Setenv("HTTP_PROXY", inside.URL)
	t.Setenv("http_proxy", inside.URL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]", "169.254.169.254", "10.255.255.1", "[64:ff9b::7f00:1]"} {
		status, err := post(ctx, newClient(nil), "http://"+host+":"+port+"/", http.Header{}, []byte("{}"))
		if status != 0 || err == nil {
			t.Errorf("%s: status %d, %v", host, status, err)
		}
		if why := failed(status, err); why != errNotPublic.Error() && why != "the host name of the receiver could not be looked up" {
			t.Errorf("%s: %s", host, why)
		}
	}
	if reached != 0 {
		t.Errorf("%d requests have reached loopback", reached)
	}
	redirects := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusTemporaryRedirect))
	defer redirects.Close()
	status, err := post(ctx, newClient(loopback), redirects.URL, http.Header{}, []byte("{}"))
	if err != nil || status != http.StatusTemporaryRedirect || reached != 0 || !strings.Contains(failed(status, err), "redirects") {
		t.Errorf("a redirect: status %d, %v, %d requests", status, err, reached)
	}
	if status, err := post(ctx, newClient(loopback), inside.URL, http.Header{}, []byte("{}")); err != nil || status != http.StatusOK || reached != 1 {
		t.Errorf("an address that is allowed: status %d, %v", status, err)
	}
}

// TestFailuresSayLittle: of what a receiver answers an account sees the status.
func TestFailuresSayLittle(t *testing.T) {
	loud := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "secret inside", http.StatusTeapot)
	}))
	defer loud.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/teapot":
			http.Error(w, "secret inside", http.StatusTeapot)
		case "/long":
			w.Header().Set("X-Long", strings.Repeat("secret", maxHeader))
		case "/cut":
			panic(http.ErrAbortHandler)
		default:
			_, _ = io.Copy(io.Discard, r.Body) // from then on the server sees the client go
			<-r.Context().Done()
		}
	}))
	defer plain.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	for url, want := range map[string]string{
		plain.URL + "/teapot": "the receiver answered with status 418",
		plain.URL + "/long":   "the connection to the receiver failed",
		plain.URL + "/cut":    "the connection to the receiver failed",
		plain.URL + "/slow":   "the receiver did not answer in time",
		closed.URL:            "the receiver refused the connection",
		loud.URL:              "the certificate of the receiver is not valid",
	} {
		limit := time.Minute
		if strings.HasSuffix(url, "/slow") {
			limit = 50 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		status, err := post(ctx, newClient(loopback), url, http.Header{}, []byte("{}"))
		cancel()
		if why := failed(status, err); why != want {
			t.Errorf("%s: %q (%v), want %q", url, why, err, want)
		}
	}
}
