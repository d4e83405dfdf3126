package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/bench/smaps"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
)

// selves prints what tells a guest from others: names, addresses and random numbers of several sources.
const selves = `cat /etc/machine-id; hostname; cat /sys/class/net/eth0/address; hostname -I; cat /proc/sys/kernel/random/uuid; head -c16 /dev/urandom | od -An -tx1`

// memorable puts something into a guest's memory and onto its disk, of which remembered tells the sums.
const (
	memorable  = `head -c 8000000 /dev/urandom > /dev/shm/blob; head -c 1000000 /dev/urandom > blob; sha256sum /dev/shm/blob blob`
	remembered = `sha256sum /dev/shm/blob blob`
)

// TestGoldenOnFirecracker is what the agent makes of snapshots with a real Firecracker: sandboxes from a golden one, which share its memory and nothing that is their own, forks and named
// snapshots of one that goes on, and VMs that are restored ahead. scripts/test-firecracker.sh runs it; the e2e suite shows the same and more on QEMU.
func TestGoldenOnFirecracker(t *testing.T) {
	if os.Getenv("WRENN_REQUIRE_FIRECRACKER") != "1" {
		t.Skip("skipped: scripts/test-firecracker.sh runs this with a real Firecracker")
	}
	testlane.NeedRoot(t)
	c := &clones{process: newProcess(t, firecracker.Name, "WRENN_POOL_MIB=0"), seen: map[string]id.Sandbox{}}
	c.start()
	first, _ := c.create("", "boot_guest")
	c.awaitGolden()
	one, _ := c.create("", "restore_vm")
	two, _ := c.create("", "restore_vm")
	c.shareMemory(one, two)
	c.destroy(first)
	c.destroy(two)

	sums := c.say(one, memorable)
	kept, children := c.keep(one), c.fork(one, 4)
	for _, sb := range append(children, one) {
		c.check(sb, remembered, sums)
	}
	c.check(one, "echo changed > blob; cat blob", "changed\n")
	c.check(children[0], remembered, sums)
	for _, sb := range append(children, one) {
		c.destroy(sb)
	}
	c.kill()
	c.start()
	again, _ := c.create(kept, "restore_vm")
	c.check(again, remembered, sums)
	c.destroy(again)
	must(t, c.client.DeleteSnapshot(t.Context(), kept))
	c.checkNothingLeft()

	c.fromThePool()
}

// clones are sandboxes of an agent, and what each has of its own.
type clones struct {
	*process
	seen map[string]id.Sandbox
}

// create makes a sandbox, of a snapshot unless that is empty, and fails the test unless it was made by a step, or has something that another has.
func (c *clones) create(from id.Snapshot, step string) (id.Sandbox, time.Duration) {
	c.t.Helper()
	sb, begun := id.NewSandbox(), time.Now()
	made, err := c.client.Create(c.t.Context(), hostclient.NewSandbox{ID: sb, Template: "minimal", Size: models.Size{VCPUs: 1, MemoryMiB: 256}, Snapshot: from})
	if err != nil {
		c.t.Fatal(err)
	}
	took := time.Since(begun)
	if !slices.ContainsFunc(made.Steps, func(s models.Step) bool { return s.Name == step }) || (made.Resumed == nil) != (step == "boot_guest") {
		c.t.Errorf("a sandbox was made by the steps %+v, with the certificate %+v, and not by %s", made.Steps, made.Resumed, step)
	}
	c.check(sb, "true", "")
	c.t.Logf("%s: created after %v, and its first program has run after %v", step, took, time.Since(begun))
	c.itself(sb)
	return sb, took
}

func (c *clones) destroy(sb id.Sandbox) {
	c.t.Helper()
	must(c.t, c.client.Destroy(c.t.Context(), sb, 0))
	maps.DeleteFunc(c.seen, func(_ string, of id.Sandbox) bool { return of == sb }) // another one may have its address
}

// itself fails the test where a sandbox has something of its own that another has too, or a wrong clock.
func (c *clones) itself(sb id.Sandbox) {
	c.t.Helper()
	for line := range strings.Lines(c.say(sb, selves)) {
		line = strings.TrimSpace(line)
		if other := c.seen[line]; other != "" && other != sb {
			c.t.Errorf("%s and %s both have %s", other, sb, line)
		}
		c.seen[line] = sb
	}
	before := time.Now().Unix()
	now, err := strconv.ParseInt(strings.TrimSpace(c.say(sb, "date +%s")), 10, 64)
	if after := time.Now().Unix(); err != nil || now < before-1 || now > after+1 {
		c.t.Errorf("between %d and %d it is %d in %s, %v", before, after, now, sb, err)
	}
}

func (c *clones) awaitGolden() {
	c.t.Helper()
	c.eventually("there is a golden snapshot", func() error {
		info, err := c.client.Info(c.t.Context())
		if err == nil && !slices.ContainsFunc(info.Templates, func(t hostclient.Template) bool { return t.Name == "minimal" && t.Warm }) {
			err = fmt.Errorf("the templates are %+v", info.Templates)
		}
		return err
	})
}

// shareMemory fails the test unless VMMs have most of their memory in common.
func (c *clones) shareMemory(all ...id.Sandbox) {
	c.t.Helper()
	for _, sb := range all {
		sums := c.memoryOf(sb)
		own, shared := sums["Private_Clean"]+sums["Private_Dirty"], sums["Shared_Clean"]
		c.t.Logf("the VMM of a clone has %.1f MiB of its own and %.1f MiB that it shares", own, shared)
		if shared < 10 || own > 100 {
			c.t.Errorf("of the memory of a clone %.1f MiB are its own and %.1f MiB shared", own, shared)
		}
	}
}

// memoryOf returns what the VMM of a sandbox takes: of the processes in its cgroup the one that has most.
func (c *clones) memoryOf(sb id.Sandbox) (most map[string]float64) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(cgroups, string(sb), "cgroup.procs"))
	must(c.t, err)
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		must(c.t, err)
		if sums, err := smaps.Sums(pid); err == nil && sums["Rss"] > most["Rss"] { // or it has ended
			most = sums
		}
	}
	return most
}

// keep makes a named snapshot of a sandbox that runs.
func (c *clones) keep(sb id.Sandbox) id.Snapshot {
	c.t.Helper()
	name, begun := id.NewSnapshot(), time.Now()
	if _, err := c.client.CreateSnapshot(c.t.Context(), sb, name); err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("kept after %v", time.Since(begun))
	return name
}

// fork makes children of a sandbox, none of which has what another has.
func (c *clones) fork(parent id.Sandbox, count int) (all []id.Sandbox) {
	c.t.Helper()
	children := make([]hostclient.NewFork, count)
	for i := range children {
		children[i].ID = id.NewSandbox()
		all = append(all, children[i].ID)
	}
	begun := time.Now()
	made, err := c.client.Fork(c.t.Context(), parent, children)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("%d children after %v", count, time.Since(begun))
	for i, kid := range made {
		if kid.ID != all[i] || kid.State != hostclient.Running || kid.Resumed == nil {
			c.t.Errorf("a child is %+v", kid)
		}
		c.itself(kid.ID)
	}
	return all
}

// fromThePool has the agent restore VMs before anybody asks for them, and takes them.
func (c *clones) fromThePool() {
	c.t.Helper()
	c.kill()
	c.env = append(c.env, "WRENN_POOL_MIB=1024")
	c.start()
	sb, restored := c.create("", "restore_vm") // by which the agent learns what is asked for
	c.destroy(sb)
	for taken := range 2 {
		c.eventually("a VM waits", func() error {
			if c.said.count("a VM was restored ahead") <= taken {
				return errors.New("not yet")
			}
			return nil
		})
		sb, took := c.create("", "take_from_pool")
		if took > restored {
			c.t.Errorf("from the pool it took %v, and %v by a restore", took, restored)
		}
		c.destroy(sb)
	}
	c.kill()
	c.env = append(c.env, "WRENN_POOL_MIB=0")
	c.start() // which removes what waited
	c.checkNothingLeft()
}
