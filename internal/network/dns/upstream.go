package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// A server that does not answer within firstWait is passed over for the next one, and in the second round waited for longer.
	firstWait, secondWait = time.Second, 2 * time.Second
	// downFor is how long a server that did not answer is asked after the others.
	downFor = 10 * time.Second
	// maxForged is how many packets that answer another question are passed over: more are an attack.
	maxForged = 32
)

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// upstreams asks the servers in their order, those that failed lately last.
type upstreams struct {
	list func() []netip.AddrPort
	dial dialer
	log  *slog.Logger

	mu   sync.Mutex // guards down
	down map[netip.AddrPort]time.Time
}

func newUpstreams(fixed []netip.AddrPort, resolvConf string, dial dialer, log *slog.Logger) *upstreams {
	u := &upstreams{dial: dial, log: log, down: map[netip.AddrPort]time.Time{}}
	u.list = func() []netip.AddrPort { return fixed }
	if len(fixed) == 0 {
		u.list = follow(resolvConf, log)
	}
	return u
}

// exchange returns the first answer that is one: that a name does not exist is, that a server fails or refuses is not.
func (u *upstreams) exchange(ctx context.Context, q dns.Question) (*dns.Msg, error) {
	servers := u.inOrder()
	if len(servers) == 0 {
		return nil, errors.New("the host has no name server")
	}
	var failures []error
	for _, wait := range []time.Duration{firstWait, secondWait} {
		for _, server := range servers {
			answer, err := u.ask(ctx, server, q, wait)
			if err == nil {
				return answer, nil
			}
			failures = append(failures, fmt.Errorf("%s: %w", server, err))
			if ctx.Err() != nil {
				return nil, errors.Join(failures...)
			}
		}
	}
	return nil, errors.Join(failures...)
}

func (u *upstreams) inOrder() []netip.AddrPort {
	servers := slices.Clone(u.list())
	u.mu.Lock()
	defer u.mu.Unlock()
	isDown := func(s netip.AddrPort) int {
		if time.Since(u.down[s]) < downFor {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(servers, func(a, b netip.AddrPort) int { return isDown(a) - isDown(b) })
	return servers
}

// ask asks one server, and notes when it does not answer.
func (u *upstreams) ask(ctx context.Context, server netip.AddrPort, q dns.Question, wait time.Duration) (*dns.Msg, error) {
	attempt, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answer, err := u.askOver(attempt, "udp", server, q)
	if errors.Is(err, errByStream) {
		answer, err = u.askOver(attempt, "tcp", server, q)
	}
	if err == nil && answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("it answers %s", dns.RcodeToString[answer.Rcode]) // of this name: of others it may know
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case err == nil:
		delete(u.down, server)
	case ctx.Err() == nil: // it is the server's fault, and not the end of the query's time
		u.down[server] = time.Now()
	}
	return answer, err
}

// errByStream says that the answer is to be had over TCP.
var errByStream = errors.New("the answer does not fit into a packet, or cannot be told from a forged one")

// askOver asks over a connection of its own: with a new port, a new id and random letters' case, an answer can hardly be forged
// by who does not see the query (RFC 5452).
func (u *upstreams) askOver(ctx context.Context, network string, server netip.AddrPort, q dns.Question) (*dns.Msg, error) {
	raw, err := u.dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	deadline, _ := ctx.Deadline() // ask sets one
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	conn := dns.Conn{Conn: raw, UDPSize: udpSize}
	query := newQuery(q)
	if err := conn.WriteMsg(query); err != nil {
		return nil, err
	}
	for range maxForged {
		answer, err := conn.ReadMsg()
		if err != nil && answer == nil {
			return nil, err
		}
		if err != nil || !answers(answer, query) {
			if network == "udp" {
				continue
			}
			return nil, errors.New("it answers another question")
		}
		if network == "udp" && (answer.Truncated || answer.Question[0].Name != query.Question[0].Name) {
			return nil, errByStream
		}
		return answer, nil
	}
	return nil, errByStream
}

func newQuery(q dns.Question) *dns.Msg {
	var random [2 + 255/8 + 1]byte
	rand.Read(random[:]) // never fails: crypto/rand aborts the program when the system has no randomness
	q.Name = mixCase(q.Name, random[2:])
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(random[:]), RecursionDesired: true}, Question: []dns.Question{q}}
	return m.SetEdns0(udpSize, false)
}

// mixCase gives the letters of name the case that the bits of random say.
func mixCase(name string, random []byte) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && random[i/8%len(random)]>>(i%8)&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// answers tells whether a message answers query. The case of the name is not compared: some servers change it.
func answers(m, query *dns.Msg) bool {
	if !m.Response || m.Id != query.Id || m.Opcode != query.Opcode || len(m.Question) != 1 {
		return false
	}
	a, q := m.Question[0], query.Question[0]
	return a.Qtype == q.Qtype && a.Qclass == q.Qclass && strings.EqualFold(a.Name, q.Name)
}
