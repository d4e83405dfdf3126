package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// setUpCommands are what a host that calls programs does for one sandbox: less than the product's own rules do.
const setUpCommands = `
ip tuntap add dev tap-command mode tap vnet_hdr
ip link set dev tap-command address 02:00:00:00:00:01
ip addr add 10.250.0.1/30 dev tap-command
ip link set dev tap-command up
iptables -w -A FORWARD -i tap-command ! -s 10.250.0.2 -j DROP
iptables -w -A FORWARD -i tap-command -d 169.254.0.0/16 -j DROP
iptables -w -A FORWARD -i tap-command -d 10.0.0.0/8 -j DROP
iptables -w -A FORWARD -i tap-command -j ACCEPT
iptables -w -A FORWARD -o tap-command -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -w -A INPUT -i tap-command -j DROP
iptables -w -t nat -A POSTROUTING -s 10.250.0.2 -j MASQUERADE`

const tearDownCommands = `
iptables -w -F
iptables -w -t nat -F
ip link del dev tap-command`

// byCommands measures the same as byNetlink, done with programs, beside no other sandbox.
func (b *bench) byCommands(ctx context.Context) error {
	var samples []float64
	for range b.rounds {
		begin := time.Now()
		if err := b.commands(ctx, setUpCommands); err != nil {
			return err
		}
		samples = append(samples, milliseconds(time.Since(begin)))
		if err := b.commands(ctx, tearDownCommands); err != nil {
			return err
		}
	}
	b.add("net_setup_by_commands_ms", "TAP, address and 7 rules for one sandbox with the programs ip and iptables", samples)
	return nil
}

func (b *bench) commands(ctx context.Context, lines string) error {
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		words := strings.Fields(line)
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := netns.Start(b.namespace, cmd)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, &out)
		}
	}
	return nil
}
