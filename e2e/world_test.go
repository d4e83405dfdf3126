package e2e

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// The servers of the world, beside the one at gatewayOfHost, where the name server is, too.
const (
	allowedServer = "198.51.100.7"
	otherServer   = "198.51.100.8"
	forbidden     = "198.51.100.9" // what no sandbox of the test may ever reach
)

// zone is what the name server knows.
var zone = map[string][]string{
	"allowed.example.": {"allowed.example. 2 IN A " + allowedServer},
	"x.cdn.example.":   {"x.cdn.example. 60 IN CNAME edge.example.", "edge.example. 60 IN A " + otherServer},
	"denied.example.":  {"denied.example. 60 IN A " + forbidden},
	"inside.example.":  {"inside.example. 60 IN A 169.254.169.254", "inside.example. 60 IN A 10.0.0.1"},
}

// world is what is behind the uplink of a platform: servers, in a namespace of their own.
type world struct {
	mu   sync.Mutex // guards hits
	hits map[string]int
}

// newWorld makes the world of a platform. Its servers end with the test.
func newWorld(t *testing.T, p *platform) *world {
	t.Helper()
	w := &world{hits: map[string]int{}}
	if err := netns.Do(p.uplink(allowedServer, otherServer, forbidden), func() error { return w.serve(t) }); err != nil {
		t.Fatal(err)
	}
	return w
}

// serve opens an HTTP server at each address and the name server, in the calling thread's namespace.
func (w *world) serve(t *testing.T) error {
	for _, address := range []string{gatewayOfHost, allowedServer, otherServer, forbidden} {
		ln, err := net.Listen("tcp4", net.JoinHostPort(address, "80"))
		if err != nil {
			return err
		}
		server := &http.Server{Handler: w.pages(address)}
		go func() { _ = server.Serve(ln) }() // ends with Close
		t.Cleanup(func() { _ = server.Close() })
	}
	packets, err := net.ListenPacket("udp4", net.JoinHostPort(gatewayOfHost, "53"))
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp4", net.JoinHostPort(gatewayOfHost, "53"))
	if err != nil {
		return err
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: dns.HandlerFunc(answerName)}, {Listener: streams, Handler: dns.HandlerFunc(answerName)}} {
		go func() { _ = server.ActivateAndServe() }() // ends with its socket
	}
	t.Cleanup(func() { _, _ = packets.Close(), streams.Close() })
	return nil
}

// pages are those of the server at address: "/" says which it is, "/ticks" goes on for as long as somebody reads.
func (w *world) pages(address string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprint(out, "this is ", address) })
	mux.HandleFunc("/ticks", func(out http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			if _, err := fmt.Fprintln(out, n); err != nil {
				return
			}
			_ = http.NewResponseController(out).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.hits[address]++
		w.mu.Unlock()
		mux.ServeHTTP(out, r)
	})
}

func (w *world) reached(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hits[address]
}

func answerName(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	records, known := zone[dns.CanonicalName(q.Question[0].Name)]
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	_ = w.WriteMsg(m) // who has gone needs no answer
}
