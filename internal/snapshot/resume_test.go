package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu"
)

// firstOwner is the first of the users that VMMs run as: nobody's on the machine.
const firstOwner = 0x2000_0000

// patience bounds every wait; it is long because the machine may be busy.
const patience = 3 * time.Minute

// lab is a host with a driver, where VMs of the real image run.
type lab struct {
	testing.TB
	driver vm.Driver
	jailed bool
	dir    string
	kernel string
	image  string
	store  *Store
}

func newLab(t testing.TB, jailed bool) *lab {
	t.Helper()
	testlane.NeedRoot(t)
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		testlane.Missing(t, "qemu-system-x86_64 is not installed")
	}
	l := &lab{TB: t, jailed: jailed}
	for name, path := range map[string]*string{"vmlinux": &l.kernel, "images/minimal/rootfs.ext4": &l.image} {
		abs, err := filepath.Abs(filepath.Join("../../build/guest", name))
		must(t, err)
		if _, err := os.Stat(abs); err != nil {
			testlane.Missing(t, "there is no "+abs+" (make images)")
		}
		*path = abs
	}
	var err error
	l.driver, err = qemu.New(context.Background(), qemu.Options{Unjailed: !jailed})
	must(t, err)
	l.dir, err = os.MkdirTemp("", "lab") // t.TempDir is too long for unix sockets
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(l.dir)) })
	l.store, err = Open(filepath.Join(l.dir, "snapshots"))
	must(t, err)
	return l
}

func (l *lab) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	l.Cleanup(cancel)
	return ctx
}

// slot is what the host gives one sandbox of its network.
type slot struct {
	tap            string
	mac            net.HardwareAddr
	gateway, guest netip.Addr
}

func (l *lab) slot(number byte) slot {
	l.Helper()
	s := slot{
		tap: fmt.Sprintf("tap-lab%d", number), mac: net.HardwareAddr{2, 0, 0, 0, 0, number},
		gateway: netip.AddrFrom4([4]byte{10, 0, number, 1}), guest: netip.AddrFrom4([4]byte{10, 0, number, 2}),
	}
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: s.tap}, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_VNET_HDR,
	}
	must(l, netlink.LinkAdd(tap))
	l.Cleanup(func() { must(l, netlink.LinkDel(tap)) })
	address, err := netlink.ParseAddr(s.gateway.String() + "/30")
	must(l, err)
	must(l, netlink.AddrAdd(tap, address))
	must(l, netlink.LinkSetUp(tap))
	return s
}

// machine is a VM with its guest.
type machine struct {
	vm.Running
	lab   *lab
	guest *envdclient.Client
}

func (l *lab) spec(name, disk string, s slot) vm.Spec {
	l.Helper()
	dir := filepath.Join(l.dir, name)
	must(l, os.Mkdir(dir, 0o700))
	spec := vm.Spec{
		ID: name, Dir: dir, Kernel: l.kernel, Rootfs: filepath.Join(dir, "rootfs.ext4"), VCPUs: 1, MemoryMiB: 256,
		NIC: &vm.NIC{TAP: s.tap, MAC: s.mac},
	}
	if l.jailed {
		spec.Jail = &vm.Jail{Owner: firstOwner + uint32(s.mac[5])}
	}
	_, err := clone.File(l.ctx(), disk, spec.Rootfs, true)
	must(l, err)
	return spec
}

// keep ends the VM with the test.
func (l *lab) keep(running vm.Running, token string) *machine {
	m := &machine{running, l, envdclient.New(func(ctx context.Context) (net.Conn, error) { return running.Dial(ctx, 49983) }, token)}
	l.Cleanup(func() {
		if l.Failed() {
			text, _ := vm.ReadConsole(running.Saved().Dir)
			l.Logf("console of %s: %s", running.Saved().Dir, text[max(0, len(text)-2000):])
		}
		m.guest.Close()
		_, err := running.Kill()
		must(l, err)
	})
	return m
}

// boot returns a VM whose guest has the name golden.
func (l *lab) boot(s slot) *machine {
	l.Helper()
	spec := l.spec("golden", l.image, s)
	spec.Args = []string{"wrenn.ip=" + s.guest.String() + "/30", "wrenn.gw=" + s.gateway.String()}
	configured, err := l.driver.Configure(l.ctx(), spec)
	must(l, err)
	running, err := configured.Start(l.ctx())
	must(l, err)
	m := l.keep(running, "")
	_, err = m.guest.Health(l.ctx())
	must(l, err)
	must(l, m.guest.Init(l.ctx(), envdclient.Init{Token: "golden-token", Hostname: "golden", Now: time.Now()}))
	return m
}

// store freezes m and stores it.
func (m *machine) store(id string, kind Kind) Snapshot {
	m.lab.Helper()
	g, err := m.lab.store.Stage(id)
	must(m.lab, err)
	must(m.lab, m.Snapshot(m.lab.ctx(), g.Files()))
	_, err = clone.File(m.lab.ctx(), filepath.Join(m.Saved().Dir, "rootfs.ext4"), g.Rootfs(), true)
	must(m.lab, err)
	must(m.lab, g.Commit(Manifest{Kind: kind, Machine: m.Saved().Machine, CreatedAt: time.Now(), Network: true}))
	s, err := m.lab.store.Snapshot(id)
	must(m.lab, err)
	return s
}

// restore returns a VM that runs, with a guest that knows nothing of it yet.
func (l *lab) restore(name string, from Snapshot, s slot, token string) *machine {
	l.Helper()
	running, err := vm.Restore(l.ctx(), l.driver, l.spec(name, from.Rootfs(), s), from.Image())
	must(l, err)
	m := l.keep(running, token)
	must(l, running.Resume(l.ctx()))
	return m
}

// identity is what clone number n is told.
func identity(name string, s slot) envdclient.Resume {
	return envdclient.Resume{
		Init: envdclient.Init{
			Token: "token-of-" + name, Hostname: name,
			Network: &envdclient.Network{Address: netip.PrefixFrom(s.guest, 30), Gateway: s.gateway, DNS: []netip.Addr{s.gateway}},
		},
		MachineID: fmt.Sprintf("%032x", s.mac[5]), MAC: s.mac,
	}
}

// run runs a script in the guest as root and returns what it prints.
func (m *machine) run(script string) string {
	m.lab.Helper()
	e, err := m.guest.Exec(m.lab.ctx(), envdclient.Command{Cmd: "/bin/bash", Args: []string{"-c", script}, User: "root"})
	must(m.lab, err)
	defer e.Close()
	var out strings.Builder
	for {
		event, err := e.Next()
		must(m.lab, err)
		switch event := event.(type) {
		case envdclient.Stdout:
			out.Write(event)
		case envdclient.Stderr:
			out.Write(event)
		case envdclient.Exited:
			if event.Code != 0 {
				m.lab.Fatalf("%s: %+v\n%s", script, event, out.String())
			}
			return strings.TrimSpace(out.String())
		}
	}
}

// lines is run's output by lines, without spaces at their ends.
func (m *machine) lines(script string) []string {
	m.lab.Helper()
	lines := strings.Split(m.run(script), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// peer is a server on the host that answers every line with itself.
type peer struct {
	net.Listener
	from chan net.Addr
}

func (l *lab) peer(s slot) peer {
	l.Helper()
	listener, err := net.Listen("tcp4", netip.AddrPortFrom(s.gateway, 0).String())
	must(l, err)
	p := peer{listener, make(chan net.Addr, 16)}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.from <- conn.RemoteAddr()
			group.Go(func() { defer conn.Close(); _, _ = io.Copy(conn, conn) })
			l.Cleanup(func() { conn.Close() })
		}
	})
	l.Cleanup(func() { listener.Close() })
	return p
}

func (p peer) port() string { return strconv.Itoa(p.Addr().(*net.TCPAddr).Port) }

const (
	// counter counts in a file that it holds open, and that has no name any more. It waits without starting a program: the
	// guest's processor is for the test.
	counter = `mkfifo /tmp/wait; exec 3<>/tmp/count 4<>/tmp/wait; rm /tmp/count /tmp/wait; i=0; while :; do i=$((i+1)); echo $i >&3; read -t 0.02 -u 4; done`
	// counts prints where the counter is, and where a moment later.
	counts = `tail -n1 /proc/%[1]d/fd/3; sleep 0.2; tail -n1 /proc/%[1]d/fd/3`
	// secret has a program in memory that is nowhere in the text which makes it.
	secret = `x=$(printf 'TOP%.0sSECRET' {1..400000}); test ${#x} = 3600000`
	// heldBack is how often a part of it may be found after the scrub, of 200,000 times: some pages are held back by the kernel.
	heldBack = 16 * 4096 / len("TOPSECRETTOPSECRET")
	// identify prints what a guest is called, one a line, and its clock.
	identify = `cat /etc/machine-id; hostname; cat /sys/class/net/eth0/address; hostname -I; grep . /etc/resolv.conf; date +%s`
	// draw prints random numbers of several sources.
	draw = `cat /proc/sys/kernel/random/uuid; head -c16 /dev/urandom | od -An -tx1; mktemp -u`
	// hook fails for one sandbox, and tells by which name it knows itself.
	hook = "#!/bin/bash\necho \"I am $(hostname)\"\ntest \"$(hostname)\" != sb-unlucky\n"
)

// TestClonesShareNothing makes VMs from one snapshot and holds that each has an identity, an address and random numbers of its own, and that what
// ran in it goes on.
func TestClonesShareNothing(t *testing.T) {
	l := newLab(t, true)
	golden := l.boot(l.slot(1))
	golden.run("mkdir -p /etc/wrenn/resume.d && cat > /etc/wrenn/resume.d/10-hello <<'X' && chmod 755 /etc/wrenn/resume.d/10-hello\n" + hook + "X")
	counting, err := golden.guest.Start(l.ctx(), envdclient.Spec{Command: envdclient.Command{Cmd: "/bin/bash", Args: []string{"-c", counter}}, Tag: "counter"})
	must(t, err)
	golden.run(secret)
	must(t, golden.guest.Scrub(l.ctx()))
	must(t, golden.guest.Forget(l.ctx()))
	snapshot := golden.store("golden", Golden)
	_, err = golden.Kill()
	must(t, err)
	memory, err := os.ReadFile(snapshot.Image().Memory)
	must(t, err)
	if n := bytes.Count(memory, []byte("TOPSECRETTOPSECRET")); n > heldBack {
		t.Errorf("of the memory that a program had before the scrub %d bytes are in the snapshot", n*len("TOPSECRETTOPSECRET"))
	}
	before, err := snapshot.Verify(l.ctx())
	must(t, err)
	frozenSince := time.Now()

	seen := map[string]string{}
	for i, name := range []string{"sb-one", "sb-two"} {
		s := l.slot(byte(i + 2))
		m := l.restore(name, snapshot, s, "golden-token")
		certificate, err := m.guest.Resume(l.ctx(), identity(name, s))
		must(t, err)
		l.checkCertificate(certificate, name)
		l.checkTokens(m)
		m.checkIdentity(name, s, frozenSince)
		m.checkNeighbour(s)
		for _, drawn := range m.lines(draw) {
			if other, twice := seen[drawn]; twice {
				t.Errorf("%s and %s have drawn %s", other, name, drawn)
			}
			seen[drawn] = name
		}
		if at := m.lines(fmt.Sprintf(counts, counting.PID)); at[0] == at[1] {
			t.Errorf("%s: what ran before stands still at %s", name, at[0])
		}
	}
	s := l.slot(4)
	unlucky := l.restore("sb-unlucky", snapshot, s, "golden-token")
	certificate, err := unlucky.guest.Resume(l.ctx(), identity("sb-unlucky", s))
	var coded *models.Error
	if !errors.As(err, &coded) || coded.Code != models.Unavailable || !strings.Contains(coded.Message, "hook:10-hello: it ended with status 1") {
		t.Errorf("a hook that fails: %v, %+v", err, certificate)
	}
	after, err := snapshot.Verify(l.ctx())
	if err != nil || !after.SealedAt.Equal(before.SealedAt) {
		t.Errorf("the snapshot after its clones: %v", err)
	}
}

func (l *lab) checkCertificate(c envdclient.Certificate, name string) {
	l.Helper()
	var steps []string
	for _, s := range c.Steps {
		steps = append(steps, s.Name)
		if !s.OK || s.Kept {
			l.Errorf("%s: step %+v", name, s)
		}
	}
	if got := strings.Join(steps, " "); got != "clock randomness machine_id hostname mac address dns token hook:10-hello" {
		l.Errorf("%s: steps %s", name, got)
	}
	if last := c.Steps[len(c.Steps)-1]; last.Output != "I am "+name {
		l.Errorf("%s: the hook says %q", name, last.Output)
	}
}

// checkTokens: the token of the snapshot is worth nothing any more.
func (l *lab) checkTokens(m *machine) {
	l.Helper()
	old := envdclient.New(func(ctx context.Context) (net.Conn, error) { return m.Dial(ctx, 49983) }, "golden-token")
	defer old.Close()
	if _, err := old.Metrics(l.ctx()); models.AsError(err).Code != models.Internal {
		l.Errorf("the old token: %v", err)
	}
	if _, err := m.guest.Metrics(l.ctx()); err != nil {
		l.Errorf("the new token: %v", err)
	}
}

// checkIdentity: no two slots are equal in anything that it holds.
func (m *machine) checkIdentity(name string, s slot, frozenSince time.Time) {
	m.lab.Helper()
	got := m.lines(identify)
	want := []string{fmt.Sprintf("%032x", s.mac[5]), name, s.mac.String(), s.guest.String(), "nameserver " + s.gateway.String()}
	if diff := cmp.Diff(want, got[:len(got)-1]); diff != "" {
		m.lab.Errorf("%s: identity:\n%s", name, diff)
	}
	now, err := strconv.ParseInt(got[len(got)-1], 10, 64)
	must(m.lab, err)
	if at := time.Unix(now+1, 0); at.Before(frozenSince) || at.After(time.Now().Add(2*time.Second)) {
		m.lab.Errorf("%s: it is %s there", name, at)
	}
}

// checkNeighbour: on the wire, too, the guest has the addresses of its slot.
func (m *machine) checkNeighbour(s slot) {
	l := m.lab
	l.Helper()
	p := l.peer(s)
	m.run("exec 3<>/dev/tcp/" + s.gateway.String() + "/" + p.port() + " && echo hello >&3 && read -t 60 x <&3 && test $x = hello")
	if from := <-p.from; !strings.HasPrefix(from.String(), s.guest.String()+":") {
		l.Errorf("%s: the guest speaks from %s", s.tap, from)
	}
	link, err := netlink.LinkByName(s.tap)
	must(l, err)
	list, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	must(l, err)
	for _, n := range list {
		if n.IP.String() == s.guest.String() && n.HardwareAddr.String() == s.mac.String() {
			return
		}
	}
	l.Errorf("%s: neighbours %v", s.tap, list)
}

// TestSameSandboxGoesOn pauses a sandbox and resumes it as itself: a connection of its goes on where it was, over a new TAP. Its VMM has no jail.
func TestSameSandboxGoesOn(t *testing.T) {
	l := newLab(t, false)
	s := l.slot(1)
	m := l.boot(s)
	p := l.peer(s)
	const talk = `exec 3<>/dev/tcp/%s/%s; while read x; do echo "$x" >&3; read y <&3; echo "$y"; done`
	talker, err := m.guest.Start(l.ctx(), envdclient.Spec{Command: envdclient.Command{
		Cmd: "/bin/bash", Args: []string{"-c", fmt.Sprintf(talk, s.gateway, p.port())}, Stdin: true,
	}})
	must(t, err)
	which := envdclient.Selector{PID: talker.PID}
	m.checkTalk(which, "before")
	snapshot := m.store("sb-golden", Pause)
	_, err = m.Kill()
	must(t, err)

	again := l.restore("again", snapshot, s, "golden-token")
	certificate, err := again.guest.Resume(l.ctx(), envdclient.Resume{
		Init: envdclient.Init{Token: "renewed", Network: &envdclient.Network{Address: netip.PrefixFrom(s.guest, 30), Gateway: s.gateway}}, MAC: s.mac,
	})
	must(t, err)
	for _, step := range certificate.Steps {
		if want := step.Name == "machine_id" || step.Name == "hostname" || step.Name == "dns"; step.Kept != want {
			t.Errorf("step %+v", step)
		}
	}
	again.checkTalk(which, "after")
	if len(p.from) != 1 {
		t.Errorf("the guest connected %d times", len(p.from))
	}
}

// checkTalk gives the talker a word and waits until it comes back over the network.
func (m *machine) checkTalk(which envdclient.Selector, word string) {
	m.lab.Helper()
	must(m.lab, m.guest.SendInput(m.lab.ctx(), which, []byte(word+"\n")))
	a, err := m.guest.Attach(m.lab.ctx(), which, 0)
	must(m.lab, err)
	defer a.Close()
	reader, writer := io.Pipe()
	defer reader.Close()
	go func() {
		for {
			event, err := a.Next()
			if out, ok := event.(envdclient.Stdout); ok {
				_, err = writer.Write(out)
			}
			if err != nil {
				writer.CloseWithError(err)
				return
			}
		}
	}()
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		if lines.Text() == word {
			return
		}
	}
	m.lab.Errorf("%q never came back", word)
}
