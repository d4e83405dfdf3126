package wire_test

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystemrpc"
	"github.com/wrenn-sandbox/wrenn/envd/internal/processrpc"
	"github.com/wrenn-sandbox/wrenn/envd/internal/wire"
	fspb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// pair is one message in both libraries' types.
type pair struct {
	ours   func() any
	theirs func() proto.Message
}

func pairOf[T any](theirs func() proto.Message) pair {
	return pair{ours: func() any { return new(T) }, theirs: theirs}
}

// pairs are all messages, by their names in the .proto files. Their order is the fuzzers' corpus's.
var pairs = []pair{
	pairOf[processrpc.StartRequest](func() proto.Message { return &pb.StartRequest{} }),
	pairOf[processrpc.EventResponse](func() proto.Message { return &pb.StartResponse{} }),
	pairOf[processrpc.EventResponse](func() proto.Message { return &pb.ConnectResponse{} }),
	pairOf[processrpc.ListResponse](func() proto.Message { return &pb.ListResponse{} }),
	pairOf[processrpc.UpdateRequest](func() proto.Message { return &pb.UpdateRequest{} }),
	pairOf[processrpc.SendInputRequest](func() proto.Message { return &pb.SendInputRequest{} }),
	pairOf[processrpc.StreamInputRequest](func() proto.Message { return &pb.StreamInputRequest{} }),
	pairOf[processrpc.SendSignalRequest](func() proto.Message { return &pb.SendSignalRequest{} }),
	pairOf[processrpc.CloseStdinRequest](func() proto.Message { return &pb.CloseStdinRequest{} }),
	pairOf[processrpc.ConnectRequest](func() proto.Message { return &pb.ConnectRequest{} }),
	pairOf[processrpc.Empty](func() proto.Message { return &pb.ListRequest{} }),
	pairOf[filesystemrpc.EntryResponse](func() proto.Message { return &fspb.StatResponse{} }),
	pairOf[filesystemrpc.PathRequest](func() proto.Message { return &fspb.StatRequest{} }),
	pairOf[filesystemrpc.MoveRequest](func() proto.Message { return &fspb.MoveRequest{} }),
	pairOf[filesystemrpc.ListDirRequest](func() proto.Message { return &fspb.ListDirRequest{} }),
	pairOf[filesystemrpc.ListDirResponse](func() proto.Message { return &fspb.ListDirResponse{} }),
	pairOf[filesystemrpc.WatchRequest](func() proto.Message { return &fspb.WatchDirRequest{} }),
	pairOf[filesystemrpc.WatchRequest](func() proto.Message { return &fspb.CreateWatcherRequest{} }),
	pairOf[filesystemrpc.WatchDirResponse](func() proto.Message { return &fspb.WatchDirResponse{} }),
	pairOf[filesystemrpc.CreateWatcherResponse](func() proto.Message { return &fspb.CreateWatcherResponse{} }),
	pairOf[filesystemrpc.WatcherRequest](func() proto.Message { return &fspb.GetWatcherEventsRequest{} }),
	pairOf[filesystemrpc.GetWatcherEventsResponse](func() proto.Message { return &fspb.GetWatcherEventsResponse{} }),
}

// samples are messages as JSON, by index in pairs. Together they set every field.
var samples = []struct {
	pair int
	json string
}{
	{0, `{}`},
	{0, `{"process":{"cmd":"/bin/sh","args":["-c","","echo \"ä\\\u0001\u2028<&>\ud83d\ude00\""],"envs":{"A":"1","":"","b":"ü"},"cwd":""},
		"pty":{"size":{"cols":80,"rows":4294967295}},"tag":"t","stdin":false,"unknown":[{"a":[1,2.5e3,null,true,"x"]}]}`},
	{0, `{"process":null,"stdin":null,"tag":""}`},
	{1, `{"event":{"start":{"pid":7,"offset":"18446744073709551615"}}}`},
	{1, `{"event":{"data":{"stdout":"aGk="}}}`},
	{1, `{"event":{"data":{"stderr":""}}}`},
	{1, `{"event":{"data":{"pty":"_-8"}}}`},
	{1, `{"event":{"end":{"exitCode":-1,"exited":true,"status":"x","error":"","signal":9,"timedOut":true,"oom_killed":true}}}`},
	{1, `{"event":{"end":{"exit_code":2147483647}}}`},
	{1, `{"event":{"end":{"exitCode":-2147483648}}}`},
	{2, `{"event":{"keepalive":{}}}`},
	{2, `{"event":{"gap":{"bytes":"12"}}}`},
	{3, `{"processes":[{"config":{"cmd":"a"},"pid":1,"tag":"x","user":"root","startedAt":1.5e9,"pty":true,"outputBytes":1.0,"end":{"exitCode":"3"}},{}]}`},
	{3, `{"processes":[{"startedAt":"Infinity"},{"startedAt":"-1e-7"},{"startedAt":1e300},{"startedAt":123456789.123456}]}`},
	{4, `{"process":{"tag":""},"pty":{}}`},
	{5, `{"process":{"pid":0},"input":{"stdin":"AAEC/w=="}}`},
	{6, `{"start":{"process":{"pid":"5"}}}`},
	{6, `{"data":{"input":{"pty":"eA"}}}`},
	{6, `{"keepalive":{}}`},
	{7, `{"process":{"pid":1},"signal":"SIGNAL_SIGTERM"}`},
	{7, `{"signal":2}`},
	{8, `{"process":{"tag":"x"}}`},
	{9, `{"process":{"pid":5},"offset":"-1"}`},
	{9, `{"offset":0}`},
	{10, `{}`},
	{11, `{"entry":{"name":"n","type":"FILE_TYPE_SYMLINK","path":"/n","size":"-5","mode":493,"permissions":"rwx","owner":"o","group":"g",
		"modifiedTime":"2026-11-24T10:20:30.123456Z","symlinkTarget":"","metadata":{"k":"v"}}}`},
	{11, `{"entry":{"type":77,"modified_time":"1969-12-31T23:59:59.5+01:00"}}`},
	{12, `{"path":"x"}`},
	{13, `{"source":"a","destination":"b"}`},
	{14, `{"path":"p","depth":2}`},
	{15, `{"entries":[{"name":"a"},{"modifiedTime":"1970-01-01T00:00:00Z"}]}`},
	{16, `{"path":"p","recursive":true,"includeEntry":true,"allowNetworkMounts":true}`},
	{17, `{"path":"p","include_entry":true}`},
	{18, `{"start":{}}`},
	{18, `{"filesystem":{"name":"f","type":"EVENT_TYPE_CHMOD","entry":{"size":"9"}}}`},
	{18, `{"keepalive":{}}`},
	{19, `{"watcherId":"w"}`},
	{20, `{"watcher_id":"w"}`},
	{21, `{"events":[{"name":"f","type":2}]}`},
}

// same checks that ours says what theirs does, both ways and in both forms.
func same(t *testing.T, p pair, ours any, theirs proto.Message) {
	t.Helper()
	binary, text := p.theirs(), p.theirs()
	if err := proto.Unmarshal(wire.AppendBinary(nil, ours), binary); err != nil {
		t.Fatalf("their reading of our binary form: %v", err)
	}
	if diff := cmp.Diff(theirs, binary, protocmp.Transform()); diff != "" {
		t.Errorf("our binary form: %s", diff)
	}
	if err := protojson.Unmarshal(wire.AppendJSON(nil, ours), text); err != nil {
		t.Fatalf("their reading of our JSON %s: %v", wire.AppendJSON(nil, ours), err)
	}
	if diff := cmp.Diff(theirs, text, protocmp.Transform()); diff != "" {
		t.Errorf("our JSON: %s", diff)
	}
}

// wantRead reads the forms that theirs has with our decoder.
func wantRead(t *testing.T, p pair, want any, theirs proto.Message) {
	t.Helper()
	data, err := proto.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	got := p.ours()
	if err := wire.UnmarshalBinary(data, got); err != nil {
		t.Fatalf("our reading of their binary form: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("our reading of their binary form: %s", diff)
	}
	if data, err = protojson.Marshal(theirs); err != nil {
		t.Fatal(err)
	}
	got = p.ours()
	if err := wire.UnmarshalJSON(data, got); err != nil {
		t.Fatalf("our reading of their JSON: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("our reading of their JSON %s: %s", data, diff)
	}
}

var ignoreUnknown = protojson.UnmarshalOptions{DiscardUnknown: true}

func TestSamples(t *testing.T) {
	for _, sample := range samples {
		t.Run(sample.json, func(t *testing.T) {
			p := pairs[sample.pair]
			ours, theirs := p.ours(), p.theirs()
			if err := wire.UnmarshalJSON([]byte(sample.json), ours); err != nil {
				t.Fatal(err)
			}
			if err := ignoreUnknown.Unmarshal([]byte(sample.json), theirs); err != nil {
				t.Fatal(err)
			}
			same(t, p, ours, theirs)
			wantRead(t, p, ours, theirs)
		})
	}
}

func TestRefusedJSON(t *testing.T) {
	for _, text := range []string{
		``, `{`, `[]`, `{"process"}`, `{"process":}`, `{"process":7}`, `{"stdin":1}`, `{"stdin":"true"}`, `{"tag":1}`, `{"tag":"x"`, `{} {}`, `{"tag":"a","tag":"b"}`,
		`{"tag":"\ud800"}`, `{"tag":"\ud800\u0041"}`, `{"tag":"\x"}`, `{"tag":"\u00g0"}`, "{\"tag\":\"\xff\"}", "{\"tag\":\"\n\"}", `{"tag":"\`, `{"process":{"args":[null]}}`,
		`{"process":{"args":["a",]}}`, `{"process":{"envs":{"a":1}}}`, `{"process":{"envs":{"a":"1","a":"2"}}}`, `{"pty":{"size":{"cols":-1}}}`,
		`{"pty":{"size":{"cols":4294967296}}}`, `{"pty":{"size":{"cols":1.5}}}`, `{"pty":{"size":{"cols":"1 "}}}`, `{"pty":{"size":{"cols":01}}}`, `{"unknown":nul}`, `{"unknown":1e}`,
		`{"pty":{"size":{"cols":1e99999999999}}}`, `{"unknown":` + strings.Repeat("[", 100000), `{"unknown":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,
		`{"process":{"args":[` + strings.Repeat(`"",`, 1<<18) + `""]}}`,
	} {
		ours := &processrpc.StartRequest{}
		if err := wire.UnmarshalJSON([]byte(text), ours); err == nil {
			t.Errorf("%.80s is %+v", text, ours)
		}
	}
	for _, text := range []string{`{"stdin":"a","pty":"b"}`, `{"stdin":"a=b"}`, `{"stdin":"é"}`, `{"stdin":7}`} {
		if err := wire.UnmarshalJSON([]byte(text), &processrpc.ProcessInput{}); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestRefusedBinary(t *testing.T) {
	for name, data := range map[string]string{
		"cut off":        "\x0a\x05\x0a",
		"huge length":    "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"number 0":       "\x02\x00",
		"wire type 7":    "\x0f",
		"stray group":    "\x0c",
		"endless varint": "\x20" + strings.Repeat("\xff", 12),
		"open group":     strings.Repeat("\x53", 100000),
		"invalid UTF-8":  "\x0a\x03\x12\x01\xff",
		"too many":       string(appendField(nil, 1, strings.Repeat("\x12\x00", 1<<18+1))),
	} {
		if err := wire.UnmarshalBinary([]byte(data), &processrpc.StartRequest{}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// appendField appends a field of bytes.
func appendField(dst []byte, number byte, value string) []byte {
	dst = append(dst, number<<3|2)
	for n := len(value); ; n >>= 7 {
		if n < 0x80 {
			return append(append(dst, byte(n)), value...)
		}
		dst = append(dst, byte(n)|0x80)
	}
}

// Text that cannot be said is changed, not sent.
func TestEncodesInvalidUTF8(t *testing.T) {
	for _, encoded := range [][]byte{
		wire.AppendBinary(nil, &filesystemrpc.PathRequest{Path: "a\xffb"}), wire.AppendJSON(nil, &filesystemrpc.PathRequest{Path: "a\xffb"}),
	} {
		if !strings.Contains(string(encoded), "a\uFFFDb") {
			t.Errorf("%q", encoded)
		}
	}
}

func TestNaN(t *testing.T) {
	got := &processrpc.ProcessInfo{}
	if err := wire.UnmarshalJSON(wire.AppendJSON(nil, &processrpc.ProcessInfo{StartedAt: math.NaN()}), got); err != nil || !math.IsNaN(got.StartedAt) {
		t.Errorf("%v, %v", got.StartedAt, err)
	}
}

// What both read they understand alike, and what the library refuses, so do we; the reverse is not wanted in
// everything: we have bounds, and the library checks what it ignores.
func FuzzBinary(f *testing.F) {
	for _, sample := range samples {
		theirs := pairs[sample.pair].theirs()
		_ = ignoreUnknown.Unmarshal([]byte(sample.json), theirs)
		data, _ := proto.Marshal(theirs)
		f.Add(sample.pair, data)
	}
	f.Fuzz(func(t *testing.T, index int, data []byte) {
		p := pairs[uint(index)%uint(len(pairs))]
		ours, theirs := p.ours(), p.theirs()
		if wire.UnmarshalBinary(data, ours) != nil {
			return
		}
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, theirs); err != nil {
			t.Fatalf("the library refuses it: %v", err)
		}
		binary := p.theirs()
		if err := proto.Unmarshal(wire.AppendBinary(nil, ours), binary); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(theirs, binary, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzJSON(f *testing.F) {
	for _, sample := range samples {
		f.Add(sample.pair, []byte(sample.json))
	}
	f.Fuzz(func(t *testing.T, index int, data []byte) {
		p := pairs[uint(index)%uint(len(pairs))]
		ours, theirs := p.ours(), p.theirs()
		if wire.UnmarshalJSON(data, ours) != nil {
			return
		}
		if err := ignoreUnknown.Unmarshal(data, theirs); err != nil {
			t.Fatalf("the library refuses it: %v", err)
		}
		same(t, p, ours, theirs)
	})
}
