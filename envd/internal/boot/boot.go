// Package boot turns a bare kernel into a system that programs can run in: what an init
// does before it starts anything.
//
// Nothing here ends PID 1. A step that fails is said on the console with its reason, and
// the next one follows, because a guest whose network is missing is still worth reaching.
package boot

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// Machine is the guest that PID 1 looks after.
type Machine struct {
	// Transport is how the host reaches envd, from the kernel arguments.
	Transport string
	// Cgroup is the cgroup v2 folder for what envd starts, empty if there is none.
	Cgroup string

	console io.Writer

	mu       sync.Mutex // held while settings are applied; guards what follows
	silenced bool       // whether eth0 was told to have no IPv6, and nothing else since, by the host. What the guest's root has it do is up to them
}

// step is one thing to do at boot.
type step struct {
	name string
	do   func() error
}

// Guest prepares the system of PID 1 and says on console what does not work.
func Guest(console io.Writer) *Machine {
	m := &Machine{console: console}
	m.run([]step{
		{"mount the kernel's file systems", mountAll},
		{"make device links", linkDevices},
		{"make cgroups", m.makeCgroups},
		{"set limits", setLimits},
		{"grow the root file system", growRoot},
	})
	arguments := m.arguments()
	m.Transport = arguments.transport
	m.run([]step{
		{"start the loopback interface", startLoopback},
		{"apply the kernel's arguments", func() error { return m.Apply(context.Background(), arguments.settings) }},
	})
	return m
}

// run runs the steps one after the other, whatever becomes of them.
func (m *Machine) run(steps []step) {
	for _, s := range steps {
		if err := s.do(); err != nil {
			m.say(s.name, err)
		}
	}
}

// say writes one line about a step that failed.
func (m *Machine) say(name string, err error) {
	_, _ = io.WriteString(m.console, "envd: "+name+": "+err.Error()+"\n")
}

// arguments reads the kernel's command line. Without any, envd still serves.
func (m *Machine) arguments() arguments {
	line, err := os.ReadFile("/proc/cmdline")
	if err == nil {
		var a arguments
		if a, err = parseArguments(string(line)); err == nil {
			return a
		}
		m.say("read the kernel's arguments", err)
		return a
	}
	m.say("read the kernel's arguments", err)
	return arguments{}
}

// Apply gives the guest the settings that are not zero. It stops at the first that
// fails, or when ctx ends; applying them again is safe.
func (m *Machine) Apply(ctx context.Context, s Settings) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, step := range []step{
		{"set the clock", func() error { return setClock(s.Time) }},
		{"set the hostname", func() error { return setHostname(s.Hostname) }},
		{"set the address", func() error { return m.setAddresses(s) }},
		{"set the name servers", func() error { return setResolvers(s.DNS) }},
	} {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}
