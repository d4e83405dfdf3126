package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// agentMetrics is where an agent tells its metrics, in the namespace of its own.
const agentMetrics = "127.0.0.1:9464"

// agentTells waits until the agent tells each of the lines, which are regular expressions.
func (p *platform) agentTells(lines ...string) {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.Do(p.netns, func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}}
	p.eventually("the agent tells what it has done", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agentMetrics+"/metrics", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		for _, line := range lines {
			if !regexp.MustCompile(`(?m)^` + line + `$`).Match(text) {
				return fmt.Errorf("%s is not in %s", line, ours(string(text)))
			}
		}
		return nil
	})
}

// ours are the lines of what is told that are about Wrenn.
func ours(text string) string {
	var all strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "wrenn_") && !strings.Contains(line, "_bucket{") {
			all.WriteString(line)
		}
	}
	return all.String()
}
