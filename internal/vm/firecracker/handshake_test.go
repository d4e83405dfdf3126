package firecracker

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestHandshake holds what becomes of each answer, and that what follows it is left to the caller.
func TestHandshake(t *testing.T) {
	for answer, want := range map[string]string{
		"OK 1073741824\nand more":   "",
		"ERR no\nand more":          `CONNECT was answered with "ERR no"`,
		"OKAY\n":                    "CONNECT was answered with",
		"":                          "nothing listens on the port",
		"OK 12":                     "nothing listens on the port",
		strings.Repeat("x", 100000): "CONNECT was answered with",
	} {
		ours, theirs := net.Pipe()
		asked := make(chan string, 1)
		go func() {
			defer theirs.Close()
			line := make([]byte, 100)
			n, _ := theirs.Read(line) // one write is one read
			asked <- string(line[:n])
			_, _ = io.WriteString(theirs, answer)
		}()
		err := handshake(ours, 49983)
		if got := <-asked; got != "CONNECT 49983\n" {
			t.Errorf("asked %q", got)
		}
		switch {
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.20q: %v, want %q", answer, err, want)
		case want == "":
			rest, _ := io.ReadAll(ours)
			if err != nil || string(rest) != "and more" {
				t.Errorf("%.20q: %v, then %q", answer, err, rest)
			}
		}
		ours.Close()
	}
}

func TestDocuments(t *testing.T) {
	var d documents
	next := d.next()
	write := func(text string) { _, _ = d.Write([]byte(text)) }
	write(`{"n":`)
	write("1}\n{\"n\":2}\n{\"n\"")
	if got := string(d.latest()); got != `{"n":2}` {
		t.Errorf("the last complete document is %q", got)
	}
	select {
	case <-next:
	default:
		t.Error("who waits was not told")
	}
	next = d.next()
	write(":3, cut off in the middle of it {\"n\":4}\n")
	write(`{"n":5}`)
	write(strings.Repeat(" ", maxDocument))
	write(", and more\n")
	if got := string(d.latest()); got != `{"n":2}` || len(d.line) > maxDocument {
		t.Errorf("after a broken and an endless line there is %q, and %d bytes of a line", got, len(d.line))
	}
	select {
	case <-next:
		t.Error("what is no document was taken for one")
	default:
	}
	write("{\"n\":6}\n")
	if got := string(d.latest()); got != `{"n":6}` {
		t.Errorf("after broken lines there is %q", got)
	}
}

func TestBackoff(t *testing.T) {
	for since, want := range map[time.Duration]time.Duration{0: minWait, time.Hour: maxWait} {
		start := time.Now()
		<-backoff{since: start.Add(-since)}.after()
		if waited := time.Since(start); waited < want {
			t.Errorf("waited %v after %v, want %v", waited, since, want)
		}
	}
}

// FuzzHandshake: whatever a VMM answers, the handshake ends, and takes nothing of what follows its line.
func FuzzHandshake(f *testing.F) {
	f.Add("OK 1073741824\nand more")
	f.Add("ERR no\n")
	f.Add(strings.Repeat("O", 40))
	f.Fuzz(func(t *testing.T, answer string) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			_, _ = theirs.Read(make([]byte, 100))
			_, _ = io.WriteString(theirs, answer)
		}()
		err := handshake(ours, 49983)
		rest, _ := io.ReadAll(ours)
		if line, after, _ := strings.Cut(answer, "\n"); err == nil && (len(line) >= maxAnswer || string(rest) != after) {
			t.Errorf("%q was taken for an answer, and %q is left", answer, rest)
		}
		ours.Close()
	})
}

// FuzzDocuments: whatever is written as metrics, in whatever parts, what is kept is one JSON document of bounded size.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte("{\"n\":1}\n{\"n\":"), 3)
	f.Add([]byte("\n\n[]\n"), 1)
	f.Fuzz(func(t *testing.T, text []byte, step int) {
		var d documents
		for step = max(1, step%1000); len(text) > 0; {
			n, err := d.Write(text[:min(step, len(text))])
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			text = text[n:]
		}
		if kept := d.latest(); kept != nil && !json.Valid(kept) || len(kept) > maxDocument || len(d.line) > maxDocument {
			t.Errorf("kept is %q", kept)
		}
	})
}
