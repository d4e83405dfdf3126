package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Counters returns a sandbox's traffic. It is NotFound for one that is not attached.
func (n *Network) Counters(sandbox id.Sandbox) (Counters, error) {
	end, err := n.begin(context.Background())
	if err != nil {
		return Counters{}, err
	}
	defer end()
	one, err := n.attached.of(sandbox)
	if err != nil {
		return Counters{}, err
	}
	link, err := n.route.LinkByIndex(int(one.device))
	if err != nil {
		return Counters{}, fmt.Errorf("read the counters of %s: %w", TAPName(sandbox), err)
	}
	c := Counters{Refused: map[string]uint64{}}
	if s := link.Attrs().Statistics; s != nil { // as the host sees them: it receives what the guest sends
		c.SentPackets, c.SentBytes, c.ReceivedPackets, c.ReceivedBytes = s.RxPackets, s.RxBytes, s.TxPackets, s.TxBytes
	}
	var wanted []element
	for i := range Rules {
		wanted = append(wanted, element{slotOf: slotOf{refusals, word(one.device) + word(uint32(i))}})
	}
	err = n.kernel.get(refusals, wanted, func(e element, count counter) {
		if i := binary.NativeEndian.Uint32([]byte(e.key[4:])); count.packets > 0 {
			c.Refused[Rules[i]] = count.packets
		}
	})
	if err != nil {
		return Counters{}, fmt.Errorf("read what was refused to %s: %w", sandbox, err)
	}
	return c, nil
}

// What of the host's table of connections sandboxes may fill before they are held back, and when they are let go on.
const (
	pressureBegins = 0.75
	pressureEnds   = 0.6
)

// pressureInterval is short enough that what all sandboxes together may begin meanwhile fits into the rest of the table.
const pressureInterval = time.Second

// watchConnections holds sandboxes back while the host's table of connections is almost full, so that the host and those
// that have few go on: no sandbox may then have more than 64.
func (n *Network) watchConnections(ctx context.Context) error {
	held := false // an earlier process may have left them so
	if err := n.kernel.list(pressure, func(element, counter) { held = true }); err != nil {
		return fmt.Errorf("list set %s: %w", pressure, err)
	}
	n.background.Go(func() {
		ticker := time.NewTicker(pressureInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			share, err := n.host.share()
			if err != nil {
				continue // a kernel that does not tell is one without connection tracking so far
			}
			if now := share > pressureBegins || held && share > pressureEnds; now != held {
				held = n.press(ctx, now, share)
			}
		}
	})
	return nil
}

// press begins or ends the pressure, and says whether there is some.
func (n *Network) press(ctx context.Context, begin bool, share float64) bool {
	both := []element{{slotOf: slotOf{pressure, string([]byte{ipv4})}}, {slotOf: slotOf{pressure, string([]byte{ipv6})}}}
	var there []element // those of an earlier process may be others
	err := n.kernel.list(pressure, func(e element, _ counter) { there = append(there, element{slotOf: e.slotOf}) })
	if !begin {
		both = nil
	}
	if err == nil {
		err = n.kernel.commit(there, both)
	}
	if err != nil {
		n.log.WarnContext(ctx, "cannot hold back the sandboxes' connections", "error", err)
		return !begin
	}
	n.log.WarnContext(ctx, "the host's table of connections fills", "share", share, "sandboxes_held_back", begin)
	return begin
}

// connectionShare is how full the namespace's table of connections is.
func (n *Network) connectionShare() (share float64, err error) {
	err = n.ns.Do(func() error {
		count, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_count")
		if err != nil {
			return err
		}
		limit, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_max")
		if err == nil && limit > 0 {
			share = float64(count) / float64(limit)
		}
		return err
	})
	return share, err
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
