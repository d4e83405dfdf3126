package http2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
)

// peer speaks HTTP/2 frame by frame.
type peer struct {
	*testing.T
	*http2.Framer
	conn net.Conn
}

// meet connects, without any frame of the peer's yet.
func meet(t *testing.T, h http.HandlerFunc) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", httptest.Serve(t, httptest.Server(h)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	p := &peer{T: t, Framer: http2.NewFramer(conn, conn), conn: conn}
	p.AllowIllegalWrites = true
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.do(writeAll(conn, http2.ClientPreface))
	return p
}

// greet connects and exchanges settings.
func greet(t *testing.T, h http.HandlerFunc, settings ...http2.Setting) *peer {
	t.Helper()
	p := meet(t, h)
	p.do(p.WriteSettings(settings...))
	p.await(func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() })
	return p
}

func writeAll(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

func (p *peer) do(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// await reads frames up to one that fits.
func (p *peer) await(fits func(http2.Frame) bool) http2.Frame {
	p.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.Fatalf("wait for a frame: %v", err)
		}
		if fits(f) {
			return f
		}
	}
}

// block encodes fields, given as name and value by turns.
func block(fields ...string) []byte {
	var buf bytes.Buffer
	encoder := hpack.NewEncoder(&buf)
	for i := 0; i < len(fields); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return buf.Bytes()
}

var post = []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "envd"}

func (p *peer) open(id uint32, ends bool, fields ...string) {
	p.Helper()
	if len(fields) == 0 {
		fields = post
	}
	p.do(p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(fields...), EndStream: ends, EndHeaders: true}))
}

func goesAway(code http2.ErrCode) func(http2.Frame) bool {
	return func(f http2.Frame) bool { g, ok := f.(*http2.GoAwayFrame); return ok && g.ErrCode == code }
}

func resets(id uint32, code http2.ErrCode) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		r, ok := f.(*http2.RSTStreamFrame)
		return ok && r.StreamID == id && r.ErrCode == code
	}
}

// What a peer must not do ends the connection, with the reason that RFC 9113 gives for it.
func TestFaultsOfTheConnection(t *testing.T) {
	for name, test := range map[string]struct {
		code http2.ErrCode
		do   func(p *peer) error
	}{
		"DATA on an idle stream":     {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteData(1, true, nil) }},
		"DATA on no stream":          {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteData(0, true, nil) }},
		"RST_STREAM of an idle one":  {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteRSTStream(1, 0) }},
		"HEADERS on an even stream":  {http2.ErrCodeProtocol, func(p *peer) error { p.open(2, true); return nil }},
		"CONTINUATION out of place":  {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteContinuation(1, true, nil) }},
		"PUSH_PROMISE":               {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 4)) }},
		"SETTINGS on a stream":       {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }},
		"SETTINGS of a wrong size":   {http2.ErrCodeFrameSize, func(p *peer) error { return p.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5)) }},
		"SETTINGS that are too much": {http2.ErrCodeFlowControl, func(p *peer) error { return p.WriteSettings(http2.Setting{ID: 4, Val: 1 << 31}) }},
		"SETTINGS of tiny frames":    {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteSettings(http2.Setting{ID: 5, Val: 1}) }},
		"PING of a wrong size":       {http2.ErrCodeFrameSize, func(p *peer) error { return p.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7)) }},
		"PING on a stream":           {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8)) }},
		"WINDOW_UPDATE by nothing":   {http2.ErrCodeProtocol, func(p *peer) error { return p.WriteWindowUpdate(0, 0) }},
		"WINDOW_UPDATE by too much":  {http2.ErrCodeFlowControl, func(p *peer) error { return p.WriteWindowUpdate(0, 1<<31-1) }},
		"a frame that is too large":  {http2.ErrCodeFrameSize, func(p *peer) error { return p.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 16<<10+1)) }},
		"a block that is none": {http2.ErrCodeCompression, func(p *peer) error {
			return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true})
		}},
		"a head that another frame interrupts": {http2.ErrCodeProtocol, func(p *peer) error {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(post...)})
			return p.WritePing(false, [8]byte{})
		}},
		"a head without end": {http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(post...)})
			for range 40 {
				err = errors.Join(err, p.WriteContinuation(1, false, nil))
			}
			return err
		}},
		"a head of much": {http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(post...)})
			for range 5 {
				err = errors.Join(err, p.WriteContinuation(1, false, make([]byte, 16<<10)))
			}
			return err
		}},
		"more padding than content": {http2.ErrCodeProtocol, func(p *peer) error {
			p.open(1, false)
			return p.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{5, 0})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := greet(t, echo)
			_ = test.do(p) // the server may have closed before the last of it was written
			p.await(goesAway(test.code))
		})
	}
}

func TestFaultsOfAStream(t *testing.T) {
	wait := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, test := range map[string]struct {
		code http2.ErrCode
		do   func(p *peer) error
	}{
		"no path":              {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, true, post[:4]...); return nil }},
		"two paths":            {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, true, append(post[:8:8], ":path", "/")...); return nil }},
		"an unknown pseudo":    {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, true, append(post[:8:8], ":x", "y")...); return nil }},
		"a late pseudo":        {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, true, append([]string{"x", "y"}, post...)...); return nil }},
		"a name in upper case": {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, true, append(post[:8:8], "X", "y")...); return nil }},
		"a connection's field": {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, true, append(post[:8:8], "connection", "close")...); return nil }},
		"a value of two lines": {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, true, append(post[:8:8], "x", "a\r\nb")...); return nil }},
		"a length without a body": {http2.ErrCodeProtocol, func(p *peer) error {
			p.open(1, true, append(post[:8:8], "content-length", "3")...)
			return nil
		}},
		"a body that is too long": {http2.ErrCodeProtocol, func(p *peer) error {
			p.open(1, false, append(post[:8:8], "content-length", "3")...)
			return p.WriteData(1, false, []byte("abcd"))
		}},
		"a body that is too short": {http2.ErrCodeProtocol, func(p *peer) error {
			p.open(1, false, append(post[:8:8], "content-length", "3")...)
			return p.WriteData(1, true, []byte("ab"))
		}},
		"a trailer that ends nothing": {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, false); p.open(1, false); return nil }},
		"DATA after the end":          {http2.ErrCodeStreamClosed, func(p *peer) error { p.open(1, true); return p.WriteData(1, true, nil) }},
		"more DATA than the window": {http2.ErrCodeFlowControl, func(p *peer) error {
			p.open(1, false)
			var err error
			for range 5 {
				err = errors.Join(err, p.WriteData(1, false, make([]byte, 16<<10)))
			}
			return err
		}},
		"a window by nothing":  {http2.ErrCodeProtocol, func(p *peer) error { p.open(1, false); return p.WriteWindowUpdate(1, 0) }},
		"a window by too much": {http2.ErrCodeFlowControl, func(p *peer) error { p.open(1, false); return p.WriteWindowUpdate(1, 1<<31-1) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := greet(t, wait)
			p.do(test.do(p))
			p.await(resets(1, test.code))
			p.do(p.WritePing(false, [8]byte{1})) // the connection goes on
			p.await(func(f http2.Frame) bool {
				ping, ok := f.(*http2.PingFrame)
				return ok && ping.IsAck() && ping.Data[0] == 1
			})
		})
	}
}

func TestPrefaceAndFirstFrame(t *testing.T) {
	p := meet(t, echo)
	p.do(p.WritePing(false, [8]byte{}))
	p.await(goesAway(http2.ErrCodeProtocol))
	conn, err := net.Dial("tcp", httptest.Serve(t, httptest.Server(http.HandlerFunc(echo))))
	p.do(err)
	defer func() { _ = conn.Close() }()
	p.do(writeAll(conn, strings.Replace(http2.ClientPreface, "SM", "XX", 1)))
	if got, err := io.ReadAll(conn); err != nil || !bytes.Contains(got, binary.BigEndian.AppendUint32(nil, 1)) {
		t.Errorf("%q, %v", got, err)
	}
}

// A peer that opens streams and resets them at once gets no more handlers than one that does not.
func TestRapidReset(t *testing.T) {
	release := make(chan struct{})
	running := make(chan struct{}, 10000)
	p := greet(t, func(http.ResponseWriter, *http.Request) {
		running <- struct{}{}
		<-release
	})
	const streams = 600
	for id := uint32(1); id < 2*streams; id += 2 {
		p.open(id, true)
		if id > 500 { // the first ones stay open
			p.do(p.WriteRSTStream(id, http2.ErrCodeCancel))
		}
	}
	p.await(resets(2*streams-1, http2.ErrCodeRefusedStream))
	if n := len(running); n > 250 {
		t.Errorf("%d handlers run", n)
	}
	close(release)
}

// What is sent waits for the windows, that of the stream and that of all, and for nothing else.
func TestSendWindows(t *testing.T) {
	p := greet(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 100)); _ = http.Flush(w) },
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	p.open(1, true)
	data := func(want int, ends bool) {
		t.Helper()
		f := p.await(func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }).(*http2.DataFrame)
		if len(f.Data()) != want || f.StreamEnded() != ends {
			t.Errorf("%d bytes, end %v; want %d, %v", len(f.Data()), f.StreamEnded(), want, ends)
		}
	}
	data(10, false)
	p.do(p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 25}))
	data(15, false)
	p.do(p.WriteWindowUpdate(1, 100))
	data(75, false)
	data(0, true)
	p.open(3, true)
	data(25, false)
	p.do(p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})) // the window is -25 now
	p.do(p.WriteWindowUpdate(3, 30))
	data(5, false)
}

// Padding, priorities, trailers and frames of unknown kinds change nothing.
func TestWhatDoesNotMatter(t *testing.T) {
	p := greet(t, echo)
	p.do(p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block(post...), EndHeaders: true, PadLength: 7, Priority: http2.PriorityParam{StreamDep: 9, Weight: 1},
	}))
	p.do(p.WritePriority(5, http2.PriorityParam{}))
	p.do(p.WriteRawFrame(0x42, 0xff, 1, []byte("unknown")))
	p.do(p.WriteDataPadded(1, false, []byte("ab"), make([]byte, 9)))
	p.do(p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("x-trailer", "y"), EndStream: true, EndHeaders: true}))
	f := p.await(func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }).(*http2.DataFrame)
	if want := `POST / 2 -1 "ab" <nil>`; string(f.Data()) != want {
		t.Errorf("%q, want %q", f.Data(), want)
	}
}
