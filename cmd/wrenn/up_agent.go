package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// upState is what a platform made that outlives its end by force: written before it is made, removed
// once it is removed.
type upState struct {
	Netns      string   `json:"netns"` // the option: host or isolated
	Subnet     string   `json:"subnet"`
	Driver     string   `json:"driver"`
	Namespace  string   `json:"namespace"` // path of the network namespace, "" for none
	AgentFlags []string `json:"agent_flags"`
}

func (p *platform) statePath() string { return filepath.Join(p.data, "up.json") }

// startAgent makes the network namespace, if one is wanted, and starts the host agent.
func (p *platform) startAgent(ctx context.Context) (err error) {
	state := upState{Netns: p.netns, Subnet: p.subnet, Driver: p.driver}
	if p.netns == "isolated" {
		p.namespace = filepath.Join(p.data, "netns")
		state.Namespace = p.namespace
	}
	state.AgentFlags = p.agentFlags()
	if err := durable.WriteJSON(p.statePath(), state, 0o600); err != nil {
		return fmt.Errorf("note what is made: %w", err)
	}
	if state.Namespace != "" {
		if err := makeNamespace(state.Namespace); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
	}
	p.say("starting the host agent")
	p.agent, err = p.keepRunning(ctx, "host-agent", p.agentSpec("serve", p.agentFlags()), p.agentReady)
	return err
}

// makeNamespace sees to a network namespace at path: there may be one of an earlier platform, with its sandboxes' devices.
func makeNamespace(path string) error {
	err := netns.Create(path)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	n, err := netns.Open(path)
	if err != nil {
		return err
	}
	return n.Close()
}

// endLeftovers deals with what an earlier platform of this data folder left: its servers are ended; its sandboxes
// are taken over by the new host agent, or destroyed if that one is to work differently.
func (p *platform) endLeftovers(ctx context.Context) error {
	for _, name := range []string{"control-plane", "host-agent"} {
		dir := filepath.Join(p.data, "up", name)
		if err := child.EndLeftover(ctx, filepath.Join(dir, "pid"), dir, syscall.SIGTERM, syscall.SIGKILL); err != nil {
			return fmt.Errorf("end the %s of an earlier wrenn up: %w", name, err)
		}
	}
	state, err := p.readState()
	if err != nil {
		return err
	}
	if p.fresh = state == nil; p.fresh {
		return nil
	}
	if state.Netns == p.netns && state.Subnet == p.subnet && state.Driver == p.driver {
		p.say("taking over what an earlier wrenn up left")
		return nil
	}
	p.say("cleaning up after an earlier wrenn up, which had other settings")
	p.fresh = true
	return p.purge(ctx)
}

// purge destroys every sandbox of the data folder and removes what was made for them. It does nothing
// when there is no state: then nothing was made.
func (p *platform) purge(ctx context.Context) error {
	state, err := p.readState()
	if state == nil || err != nil {
		return err
	}
	if state.Namespace != "" {
		// It may be missing after a restart of the machine; the agent needs it to look for what is left.
		if err := makeNamespace(state.Namespace); err != nil {
			return fmt.Errorf("make the network namespace: %w", err)
		}
	}
	if _, err := p.runTool(ctx, p.agentSpec("purge", state.AgentFlags)); err != nil {
		return fmt.Errorf("remove the sandboxes: %w", err)
	}
	if state.Namespace != "" {
		if err := netns.Delete(state.Namespace); err != nil {
			return fmt.Errorf("remove the network namespace: %w", err)
		}
	}
	return errors.Join(os.RemoveAll(filepath.Join(p.data, "up")), os.Remove(p.statePath()))
}

// readState returns nil when nothing was left.
func (p *platform) readState() (*upState, error) {
	var state upState
	err := durable.ReadJSON(p.statePath(), &state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what an earlier wrenn up left: %w", err)
	}
	return &state, nil
}
