package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// progressEvery is how often the progress is shown.
const progressEvery = 200 * time.Millisecond

// progress shows on standard error, if that is a terminal, how far the reading of r is. size is -1 where it is not known. The
// caller calls end.
func (a *app) progress(r io.Reader, name string, size int64) *progress {
	p := &progress{Reader: r, done: make(chan struct{})}
	if !isTerminal(a.stderr) {
		return p
	}
	began := time.Now()
	show := func(end string) {
		cols, _, err := term.GetSize(int(a.stderr.Fd()))
		if err != nil || cols < 20 {
			cols = 80
		}
		fmt.Fprintf(a.stderr, "\r\x1b[K%s%s", bar(printable(name), p.read.Load(), size, time.Since(began), cols-1), end)
	}
	p.shown.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show("")
			case <-p.done:
				show("\n")
				return
			}
		}
	})
	return p
}

// progress is a reader that is counted.
type progress struct {
	io.Reader
	read  atomic.Int64
	once  sync.Once
	done  chan struct{}
	shown sync.WaitGroup
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.read.Add(int64(n))
	return n, err
}

// end shows the last state and returns when nothing more is shown.
func (p *progress) end() {
	p.once.Do(func() { close(p.done) })
	p.shown.Wait()
}

// bar is one line of at most cols characters.
func bar(name string, read, size int64, passed time.Duration, cols int) string {
	rate := float64(read) / max(passed.Seconds(), 0.001)
	text := fmt.Sprintf("%s  %s/s", bytesText(float64(read)), bytesText(rate))
	if size > 0 {
		share := min(1, float64(read)/float64(size)) // the length of an archive is only about right
		const width = 20
		filled := int(share * width)
		text = fmt.Sprintf("[%-*s] %3.0f%%  %s of %s  %s/s", width, strings.Repeat("=", filled), 100*share, bytesText(float64(read)), bytesText(float64(size)), bytesText(rate))
		if read > 0 && read < size {
			left := time.Duration(float64(size-read) / rate * float64(time.Second))
			text += "  " + left.Round(time.Second).String() + " left"
		}
	}
	room := cols - len(text) - 2
	if runes := []rune(name); len(runes) > room {
		name = string(runes[:max(0, room-1)]) + "…"
	}
	if room < 8 {
		return text[:min(len(text), cols)]
	}
	return name + "  " + text
}

// bytesText is a size in the unit that suits it.
func bytesText(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 1024 && unit == "B" {
			return fmt.Sprintf("%.0f B", n)
		}
		if n < 1024 {
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f TiB", n)
}
