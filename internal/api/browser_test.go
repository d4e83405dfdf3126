package api

import (
	"context"
	_ "embed" // for the page
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

//go:embed testdata/terminal.html
var terminalPage string

// page is a page in a real browser, from an origin that is not the API's.
type page struct {
	t   *testing.T
	tab context.Context
}

// newPage opens the page. The browser ends with the test, and its profile with it.
func newPage(t *testing.T) *page {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		testlane.Missing(t, "needs Chromium (scripts/install-deps.sh test)")
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, terminalPage)
	}))
	t.Cleanup(site.Close)
	dir := t.TempDir()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.UserDataDir(dir),
		chromedp.Env("TMPDIR="+dir), // it leaves a folder there
		chromedp.NoSandbox,          // which root cannot have; the page is ours
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	allocator, stop := chromedp.NewExecAllocator(within(t), options...)
	t.Cleanup(stop) // it waits for the process
	tab, end := chromedp.NewContext(allocator)
	t.Cleanup(end)
	p := &page{t, tab}
	if err := chromedp.Do(tab, chromedp.Navigate(site.URL)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *page) do(script string, args ...any) {
	p.t.Helper()
	if err := chromedp.Do(p.tab, chromedp.Evaluate[chromedp.Void](fmt.Sprintf("void (%s)", fmt.Sprintf(script, args...)))); err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
}

func (p *page) until(condition string, args ...any) {
	p.t.Helper()
	condition = fmt.Sprintf(condition, args...)
	poll := chromedp.Poll[bool](condition, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(0))
	if _, err := chromedp.Run(p.tab, poll); err != nil {
		seen, _ := chromedp.Run(p.tab, chromedp.Evaluate[string]("JSON.stringify(terminal)"))
		p.t.Fatalf("%s never came true: %v\n%s", condition, err, seen)
	}
}

// TestTerminalInBrowser: a page of any origin opens a terminal with a ticket, types, resizes, loses its connection and comes back
// to the same terminal, where nothing is lost.
func TestTerminalInBrowser(t *testing.T) {
	p := newPage(t)
	r := newRig(t, Limits{})
	sb := r.create().ID
	connect := func(query string) {
		p.do(`connect(%q, %q, %q, %s)`, r.server.URL, sb, r.ticket(sb), query)
		p.until(`terminal.open`)
	}
	connect(`{cmd: "PS1='$ ' exec sh", cols: 90, rows: 20}`)
	p.until(`terminal.protocol == "wrenn.terminal" && terminal.output.endsWith("$ ")`)
	p.do(`type("stty size; echo gr\u00fc\u00df-$((6*7))\r")`)
	p.until(`terminal.output.includes("20 90") && terminal.output.includes("grüß-42")`)
	p.do(`resize(120, 40)`)
	p.do(`type("stty size\r")`)
	p.until(`terminal.output.includes("40 120")`)
	p.do(`type("read x; echo back-$x\r")`)

	first, err := chromedp.Run(p.tab, chromedp.Evaluate[string]("terminal.id"))
	if err != nil {
		t.Fatal(err)
	}
	p.do(`socket.close()`)
	p.until(`terminal.closed !== null`)
	connect(`{id: terminal.id, offset: terminal.offset}`)
	p.do(`type("again\r")`)
	p.until(`terminal.output.includes("back-again") && terminal.id == %q`, first)
	seen, err := chromedp.Run(p.tab, chromedp.Evaluate[string]("terminal.output"))
	if strings.Count(seen, "grüß-42") != 1 || err != nil {
		t.Errorf("what was shown came again, or was lost: %q, %v", seen, err)
	}
	p.do(`type("exit 3\r")`)
	p.until(`terminal.last && terminal.last.type == "exit" && terminal.last.exit_code == 3 && terminal.closed == 1000`)
}
