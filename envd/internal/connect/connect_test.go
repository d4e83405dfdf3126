package connect_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	library "connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	envdhttp "github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
	"github.com/wrenn-sandbox/wrenn/envd/internal/processrpc"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// service answers what the tests ask for. Of the process service's methods it has one of each form.
type service struct{}

func (service) sendSignal(ctx context.Context, call *connect.Call, req *processrpc.SendSignalRequest) (*processrpc.Empty, error) {
	call.Response.Set("Seen", call.Header.Get("Ask"))
	call.Trailer.Set("Later", "trailer")
	tag := ""
	if req.Process != nil && req.Process.Tag != nil {
		tag = *req.Process.Tag
	}
	switch tag {
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "plain":
		return nil, errors.New("broken")
	case "":
		return &processrpc.Empty{}, nil
	}
	err := connect.Errorf(connect.Code(tag), "it is <%s>", tag)
	err.Header = envdhttp.Header{"Wrenn-Reason": {"reason"}}
	return nil, err
}

// start sends the command back, then its arguments one by one, and fails if there is a tag.
func (service) start(ctx context.Context, call *connect.Call, req *processrpc.StartRequest, send func(*processrpc.EventResponse) error) error {
	call.Trailer.Set("Later", "trailer")
	for _, text := range append([]string{req.Process.Cmd}, req.Process.Args...) {
		event := &processrpc.ProcessEvent{Data: &processrpc.DataEvent{Stdout: []byte(text)}}
		if err := send(&processrpc.EventResponse{Event: event}); err != nil {
			return err
		}
	}
	switch {
	case req.Tag == nil:
		return nil
	case *req.Tag == "wait":
		<-ctx.Done()
		return ctx.Err()
	}
	err := connect.Errorf(connect.Code(*req.Tag), "it is <%s>", *req.Tag)
	err.Header = envdhttp.Header{"Wrenn-Reason": {"reason"}}
	return err
}

// streamInput fails with what it was told.
func (service) streamInput(_ context.Context, _ *connect.Call, receive func() (*processrpc.StreamInputRequest, error)) (*processrpc.Empty, error) {
	var got bytes.Buffer
	for {
		req, err := receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if req.Data != nil {
			got.Write(req.Data.Input.Stdin)
		}
	}
	if got.String() == "ok" {
		return &processrpc.Empty{}, nil
	}
	return nil, connect.Errorf(connect.Aborted, "%d bytes", got.Len())
}

func serve(t *testing.T) string {
	t.Helper()
	mux := envdhttp.NewServeMux()
	mux.Handle(processconnect.ProcessSendSignalProcedure, connect.Unary(service{}.sendSignal))
	mux.Handle(processconnect.ProcessStartProcedure, connect.ServerStream(service{}.start))
	mux.Handle(processconnect.ProcessStreamInputProcedure, connect.ClientStream(service{}.streamInput))
	return "http://" + httptest.Serve(t, httptest.Server(mux))
}

// eachClient runs a test with every form of the protocol that the library's client can be given.
func eachClient(t *testing.T, test func(t *testing.T, rpc processconnect.ProcessClient)) {
	url := serve(t)
	for _, http2 := range []bool{false, true} {
		transport := &http.Transport{Protocols: &http.Protocols{}}
		transport.Protocols.SetHTTP1(!http2)
		transport.Protocols.SetUnencryptedHTTP2(http2)
		t.Cleanup(transport.CloseIdleConnections)
		for name, options := range map[string][]library.ClientOption{
			"binary": nil, "JSON": {library.WithProtoJSON()},
			"gzip": {library.WithSendGzip()}, "gzip JSON": {library.WithProtoJSON(), library.WithSendGzip()},
		} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", name, http2), func(t *testing.T) {
				test(t, processconnect.NewProcessClient(&http.Client{Transport: transport}, url, options...))
			})
		}
	}
}

func tagged(tag string) *library.Request[pb.SendSignalRequest] {
	req := library.NewRequest(&pb.SendSignalRequest{})
	if tag != "" {
		req.Msg.Process = &pb.ProcessSelector{Selector: &pb.ProcessSelector_Tag{Tag: tag}}
	}
	return req
}

var codes = []library.Code{
	library.CodeCanceled, library.CodeUnknown, library.CodeInvalidArgument, library.CodeDeadlineExceeded, library.CodeNotFound, library.CodeAlreadyExists,
	library.CodePermissionDenied, library.CodeResourceExhausted, library.CodeFailedPrecondition, library.CodeAborted, library.CodeOutOfRange,
	library.CodeUnimplemented, library.CodeInternal, library.CodeUnavailable, library.CodeDataLoss, library.CodeUnauthenticated,
}

func wantError(t *testing.T, err error, code library.Code) {
	t.Helper()
	var remote *library.Error
	if !errors.As(err, &remote) || !library.IsWireError(err) || remote.Code() != code || remote.Message() != fmt.Sprintf("it is <%s>", code) {
		t.Fatalf("error %v, want %s", err, code)
	}
	if remote.Meta().Get("Wrenn-Reason") != "reason" {
		t.Errorf("the error's header is %v", remote.Meta())
	}
}

func TestUnary(t *testing.T) {
	eachClient(t, func(t *testing.T, rpc processconnect.ProcessClient) {
		req := tagged("")
		req.Header().Set("Ask", "x")
		resp, err := rpc.SendSignal(t.Context(), req)
		if err != nil || resp.Header().Get("Seen") != "x" || resp.Trailer().Get("Later") != "trailer" {
			t.Fatalf("%v, %v", resp, err)
		}
		for _, code := range codes {
			_, err := rpc.SendSignal(t.Context(), tagged(code.String()))
			wantError(t, err, code)
		}
		if _, err := rpc.SendSignal(t.Context(), tagged("plain")); library.CodeOf(err) != library.CodeInternal {
			t.Error(err)
		}
	})
}

func TestServerStream(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	eachClient(t, func(t *testing.T, rpc processconnect.ProcessClient) {
		stream, err := rpc.Start(t.Context(), library.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "a", Args: []string{"", big, "b"}}}))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for stream.Receive() {
			got = append(got, string(stream.Msg().GetEvent().GetData().GetStdout()))
		}
		if stream.Err() != nil || strings.Join(got, ",") != "a,,"+big+",b" || stream.ResponseTrailer().Get("Later") != "trailer" {
			t.Errorf("%d messages, error %v, trailer %v", len(got), stream.Err(), stream.ResponseTrailer())
		}
		for _, code := range codes {
			tag := code.String()
			stream, err := rpc.Start(t.Context(), library.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "a"}, Tag: &tag}))
			if err != nil || !stream.Receive() || stream.Receive() {
				t.Fatalf("not one message: %v", err)
			}
			wantError(t, stream.Err(), code)
		}
	})
}

func TestClientStream(t *testing.T) {
	eachClient(t, func(t *testing.T, rpc processconnect.ProcessClient) {
		for text, want := range map[string]string{"ok": "", strings.Repeat("x", 2<<20): "aborted: 6291456 bytes"} {
			stream := rpc.StreamInput(t.Context())
			pieces := []string{text}
			if text == "ok" {
				pieces = []string{"o", "", "k"}
			} else {
				pieces = append(pieces, text, text)
			}
			for _, piece := range pieces {
				input := &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte(piece)}}
				data := &pb.StreamInputRequest_Data{Data: &pb.StreamInputRequest_DataEvent{Input: input}}
				if err := stream.Send(&pb.StreamInputRequest{Event: data}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := stream.CloseAndReceive(); err != nil && err.Error() != want || err == nil && want != "" {
				t.Errorf("error %v, want %q", err, want)
			}
		}
	})
}

// A call ends with its timeout and with its caller.
func TestTimeout(t *testing.T) {
	eachClient(t, func(t *testing.T, rpc processconnect.ProcessClient) {
		req := tagged("wait")
		req.Header().Set("Connect-Timeout-Ms", "20") // the client itself knows of none
		if _, err := rpc.SendSignal(t.Context(), req); library.CodeOf(err) != library.CodeDeadlineExceeded || !library.IsWireError(err) {
			t.Error(err)
		}
		wait := "wait"
		start := library.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{}, Tag: &wait})
		start.Header().Set("Connect-Timeout-Ms", "20")
		stream, err := rpc.Start(t.Context(), start)
		if err != nil || !stream.Receive() || stream.Receive() || library.CodeOf(stream.Err()) != library.CodeDeadlineExceeded {
			t.Errorf("%v, %v", err, stream.Err())
		}
	})
}

func zip(data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write(data)
	_ = w.Close()
	return buf.Bytes()
}

func frame(flags byte, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(data))), data...)
}

func post(t *testing.T, url string, body []byte, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestMalformedUnary(t *testing.T) {
	url := serve(t) + processconnect.ProcessSendSignalProcedure
	bomb := zip(make([]byte, 8<<20))
	for _, test := range []struct {
		name   string
		body   []byte
		header []string
		status int
		text   string
	}{
		{"no type", nil, nil, 415, ""},
		{"a stream's type", nil, []string{"Content-Type", "application/connect+json"}, 415, ""},
		{"charset", []byte("{}"), []string{"Content-Type", "application/json; charset=utf-8"}, 200, "{}"},
		{"not JSON", []byte("x"), []string{"Content-Type", "application/json"}, 400, `"code":"invalid_argument"`},
		{"empty binary", nil, []string{"Content-Type", "application/proto"}, 200, ""},
		{"version", []byte("{}"), []string{"Content-Type", "application/json", "Connect-Protocol-Version", "2"}, 400, "connect-protocol-version"},
		{"timeout", []byte("{}"), []string{"Content-Type", "application/json", "Connect-Timeout-Ms", "-1"}, 400, "Connect-Timeout-Ms"},
		{"long timeout", []byte("{}"), []string{"Content-Type", "application/json", "Connect-Timeout-Ms", "12345678901"}, 400, "Connect-Timeout-Ms"},
		{"encoding", []byte("{}"), []string{"Content-Type", "application/json", "Content-Encoding", "br"}, 501, "gzip"},
		{"bad gzip", []byte("{}"), []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, 400, "gzip"},
		{"bomb", bomb, []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, 429, "resource_exhausted"},
		{"large", make([]byte, 5<<20), []string{"Content-Type", "application/json"}, 429, "resource_exhausted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, text := post(t, url, test.body, test.header...)
			if resp.StatusCode != test.status || !strings.Contains(text, test.text) {
				t.Errorf("%d %s", resp.StatusCode, text)
			}
		})
	}
	resp, err := http.Get(url)
	if err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
}

func TestMalformedStream(t *testing.T) {
	url := serve(t) + processconnect.ProcessStartProcedure
	valid := frame(0, []byte(`{"process":{"cmd":"x"}}`))
	for name, test := range map[string]struct {
		body     []byte
		encoding string
		text     string
	}{
		"empty":         {nil, "", `"code":"invalid_argument"`},
		"half a header": {[]byte{0, 0}, "", `"code":"invalid_argument"`},
		"cut off":       {valid[:len(valid)-1], "", `"code":"invalid_argument"`},
		"endless":       {[]byte{0, 0xff, 0xff, 0xff, 0xff}, "", `"code":"resource_exhausted"`},
		"an end":        {frame(2, []byte("{}")), "", `"code":"invalid_argument"`},
		"two":           {append(bytes.Clone(valid), valid...), "", `"code":"invalid_argument"`},
		"secretly gzip": {frame(1, zip([]byte("{}"))), "", `"code":"invalid_argument"`},
		"bomb":          {frame(1, zip(make([]byte, 8<<20))), "gzip", `"code":"resource_exhausted"`},
		"encoding":      {valid, "br", `"code":"unimplemented"`},
	} {
		t.Run(name, func(t *testing.T) {
			resp, text := post(t, url, test.body, "Content-Type", "application/connect+json", "Connect-Content-Encoding", test.encoding)
			if resp.StatusCode != 200 || len(text) < 5 || text[0] != 2 || !strings.Contains(text, test.text) {
				t.Errorf("%d %q", resp.StatusCode, text)
			}
		})
	}
}

// A message comes when it is sent, not when the next one does.
func TestFramesAreFlushed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rpc := processconnect.NewProcessClient(http.DefaultClient, serve(t))
	wait := "wait"
	stream, err := rpc.Start(ctx, library.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "a"}, Tag: &wait}))
	if err != nil || !stream.Receive() {
		t.Fatalf("%v, %v", err, stream.Err())
	}
	_ = stream.Close()
}
