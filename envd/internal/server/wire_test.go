package server_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// frame is one message of the Connect streaming protocol: flags, length, data.
type frame struct {
	flags byte
	data  []byte
}

func (f frame) encode() []byte {
	head := binary.BigEndian.AppendUint32([]byte{f.flags}, uint32(len(f.data)))
	return append(head, f.data...)
}

func decodeFrames(t *testing.T, body []byte) []frame {
	t.Helper()
	var frames []frame
	for len(body) > 0 {
		if len(body) < 5 || len(body) < 5+int(binary.BigEndian.Uint32(body[1:])) {
			t.Fatalf("truncated frame %q", body)
		}
		n := int(binary.BigEndian.Uint32(body[1:]))
		frames = append(frames, frame{flags: body[0], data: body[5 : 5+n]})
		body = body[5+n:]
	}
	return frames
}

// streamJSON makes a streaming call as E2B's clients do, byte by byte.
func (e *envd) streamJSON(method, message string, header ...string) []frame {
	e.Helper()
	req, err := http.NewRequest("POST", e.url+"/process.Process/"+method, bytes.NewReader(frame{data: []byte(message)}.encode()))
	if err != nil {
		e.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/connect+json")
	req.Header.Set("Connect-Protocol-Version", "1")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := e.http.Do(req)
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/connect+json" {
		e.Fatalf("status %d, type %q, error %v", resp.StatusCode, resp.Header.Get("Content-Type"), err)
	}
	return decodeFrames(e.T, body)
}

func TestStartInJSON(t *testing.T) {
	e := startDebug(t)
	frames := e.streamJSON("Start", `{"process":{"cmd":"/bin/sh","args":["-c","printf hi; exit 3"],"envs":{},"unknownField":1},"stdin":false}`,
		"Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("root:")), "Keepalive-Ping-Interval", "50")
	if len(frames) != 4 || frames[3].flags != 2 {
		t.Fatalf("frames %q", frames)
	}
	var start struct {
		Event struct{ Start struct{ PID int } }
	}
	if err := json.Unmarshal(frames[0].data, &start); err != nil || start.Event.Start.PID == 0 {
		t.Errorf("first frame %s: %v", frames[0].data, err)
	}
	for i, want := range map[int]string{
		1: `{"event":{"data":{"stdout":"aGk="}}}`,
		2: `{"event":{"end":{"exitCode":3,"exited":true,"status":"exit status 3","error":"exit status 3"}}}`,
		3: `{}`,
	} {
		if got := strings.ReplaceAll(string(frames[i].data), " ", ""); got != strings.ReplaceAll(want, " ", "") {
			t.Errorf("frame %d is %s, want %s", i, got, want)
		}
	}
}

func TestErrorInJSON(t *testing.T) {
	e := startDebug(t)
	frames := e.streamJSON("Start", `{"process":{"cmd":"missing"}}`)
	if len(frames) != 1 || frames[0].flags != 2 || !strings.Contains(string(frames[0].data), `"code":"invalid_argument","message":"command not found: missing"`) {
		t.Errorf("frames %q", frames)
	}
	status, text := e.request("POST", "/process.Process/SendSignal", `{"process":{"pid":4194305},"signal":"SIGNAL_SIGKILL"}`,
		http.Header{"Content-Type": {"application/json"}})
	if status != 404 || !strings.Contains(text, `"code":"not_found"`) {
		t.Errorf("%d %s", status, text)
	}
	status, text = e.request("POST", "/process.Process/List", `{}`, http.Header{"Content-Type": {"application/json"}})
	if status != 200 || text != `{}` {
		t.Errorf("%d %s", status, text)
	}
}

func TestMalformedRequests(t *testing.T) {
	e := startDebug(t)
	for name, body := range map[string][]byte{
		"empty":            {},
		"half a header":    {0, 0},
		"truncated":        {0, 0, 0, 0, 9, '{'},
		"endless":          {0, 0xff, 0xff, 0xff, 0xff},
		"not JSON":         frame{data: []byte("][")}.encode(),
		"compressed":       frame{flags: 1, data: []byte("{}")}.encode(),
		"invalid UTF-8":    frame{data: []byte("{\"process\":{\"cmd\":\"\xff\xfe\"}}")}.encode(),
		"wrong type":       frame{data: []byte(`{"process":7}`)}.encode(),
		"too deeply":       frame{data: []byte(strings.Repeat(`{"process":`, 20000))}.encode(),
		"two messages":     append(frame{data: []byte(`{"process":{"cmd":"true"}}`)}.encode(), frame{data: []byte(`{}`)}.encode()...),
		"larger than 4 MB": frame{data: []byte(`{"process":{"cmd":"` + strings.Repeat("x", 5<<20) + `"}}`)}.encode(),
	} {
		t.Run(name, func(t *testing.T) {
			status, text := e.request("POST", "/process.Process/Start", string(body), http.Header{"Content-Type": {"application/connect+json"}})
			if status == 200 && !strings.Contains(text, `"error":{"code":"`) {
				t.Errorf("%d %q", status, text)
			}
		})
	}
	if list := e.list(); len(list) != 0 {
		t.Errorf("%v run", list)
	}
}

// Text that is not UTF-8 cannot be said in this protocol, and is refused, not changed.
func TestInvalidUTF8Argument(t *testing.T) {
	e := startDebug(t)
	// StartRequest{process: {cmd: "echo", args: ["\xff"]}} in the binary form.
	body := frame{data: []byte("\x0a\x09\x0a\x04echo\x12\x01\xff")}.encode()
	status, text := e.request("POST", "/process.Process/Start", string(body), http.Header{"Content-Type": {"application/connect+proto"}})
	if status != 200 || !strings.Contains(text, "invalid_argument") || !strings.Contains(text, "UTF-8") {
		t.Errorf("%d %q", status, text)
	}
}

func TestHTTP2(t *testing.T) {
	e := startDebug(t)
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	e.http = &http.Client{Transport: &http.Transport{Protocols: protocols}}
	e.rpc = processconnect.NewProcessClient(e.http, e.url)
	defer e.http.CloseIdleConnections()
	resp, err := e.http.Get(e.url + "/health")
	if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("response %v, error %v", resp, err)
	}
	_ = resp.Body.Close()
	slow := e.mustBegin(command("sleep", "1000")) // streams of one connection do not hold each other up
	if res := e.run(shell("head -c 3000000 /dev/zero; exit 2")); res.end.GetExitCode() != 2 || res.stdout.Len() != 3000000 {
		t.Errorf("end %v, %d bytes", res.end, res.stdout.Len())
	}
	if err := e.signal(slow.pid, 9); err != nil {
		t.Fatal(err)
	}
	if res := slow.finish(); res.end.GetSignal() != 9 {
		t.Errorf("end %v, error %v", res.end, res.err)
	}
}
