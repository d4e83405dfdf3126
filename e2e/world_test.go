package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// The world behind the uplink of a platform's host: addresses for documentation, RFC 5737.
const (
	addressOfHost = "192.0.2.1"
	gatewayOfHost = "192.0.2.2" // where the name server is, too
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

// world is a namespace with servers, linked to the platform's.
type world struct {
	mu   sync.Mutex // guards hits
	hits map[string]int
}

// newWorld makes the world of a platform. Its servers end with the test.
func newWorld(t *testing.T, host string) *world {
	t.Helper()
	peer := filepath.Join(t.TempDir(), "peer")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netns.Create(peer))
	t.Cleanup(func() {
		if err := netns.Delete(peer); err != nil {
			t.Error(err)
		}
	})
	there, err := netns.Open(peer)
	must(err)
	defer there.Close()
	must(netns.Do(host, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "peer", PeerNamespace: netlink.NsFd(there.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		if err := turnOn("uplink", addressOfHost+"/24"); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gatewayOfHost)})
	}))
	must(netns.Do(peer, func() error {
		return turnOn("peer", gatewayOfHost+"/24", allowedServer+"/32", otherServer+"/32", forbidden+"/32")
	}))
	w := &world{hits: map[string]int{}}
	must(netns.Do(peer, func() error { return w.serve(t) }))
	return w
}

func turnOn(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
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
