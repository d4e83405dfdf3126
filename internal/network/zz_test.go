package network_test
import ("testing";"os/exec";"github.com/wrenn-sandbox/wrenn/internal/network/netns";"bytes")
func TestZZ(t *testing.T) {
	w := newWorld(t); n := w.open(""); w.attach(n, alice)
	cmd := exec.Command("bash","-c",`for c in $(nft -nn list chains inet 2>/dev/null| grep 'chain ' | awk '{print $2}'); do nft list chain inet wrenn $c >/tmp/nftc.$c 2>&1 || echo "chain $c: $(tail -1 /tmp/nftc.$c)"; done; nft list chain arp wrenn input; for s in guests pins allowed rate_limits policy_flags marks current refusals dns_ports connections_64; do nft list set inet wrenn $s 2>&1 | head -5; nft list map inet wrenn $s 2>&1|head -8; done`)
	var out bytes.Buffer; cmd.Stdout, cmd.Stderr = &out, &out
	w.must(netns.Start(w.host, cmd)); cmd.Wait(); t.Log(out.String())
}
