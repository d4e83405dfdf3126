// Package connect is the server's side of the Connect protocol (https://connectrpc.com/docs/protocol): unary calls,
// streams from the server and streams from the client, in JSON and in the binary form, over HTTP/1.1 and HTTP/2.
// Messages are structs as package wire describes them.
//
// Requests may be compressed with gzip; answers never are, since the channel to the host is local. GET requests
// and gRPC are not understood.
package connect

import (
	"context"
	"errors"
	"io"
	"mime"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/wire"
)

// Call is what a method knows about its call beside the request. Header must not be changed; Response and
// Trailer are the method's to fill, Response before the first message.
type Call struct {
	Header   http.Header
	Response http.Header
	Trailer  http.Header
	Timeout  time.Duration // Connect-Timeout-Ms, 0 for none
}

// Handler serves one method.
type Handler struct {
	streams    bool // whether messages are framed
	ownTimeout bool
	serve      func(ctx context.Context, call *Call, x *exchange) error
}

// Unary returns the handler of a method with one request and one answer. What a method returns as its error
// is an Error, or is told to the caller as an internal one.
func Unary[Req, Resp any](method func(context.Context, *Call, *Req) (*Resp, error)) *Handler {
	return &Handler{serve: func(ctx context.Context, call *Call, x *exchange) error {
		req := new(Req)
		data, err := readUnary(x.request)
		if err != nil {
			return err
		}
		if err := x.codec.unmarshal(data, req); err != nil {
			return err
		}
		resp, err := method(ctx, call, req)
		if err != nil {
			return err
		}
		x.reply(resp, call.Trailer)
		return nil
	}}
}

// ServerStream returns the handler of a method that answers with a stream. An error of send means that
// the caller is gone.
func ServerStream[Req, Resp any](method func(ctx context.Context, call *Call, req *Req, send func(*Resp) error) error) *Handler {
	return &Handler{streams: true, serve: func(ctx context.Context, call *Call, x *exchange) error {
		req := new(Req)
		if err := x.only(req); err != nil {
			return err
		}
		return method(ctx, call, req, func(resp *Resp) error { return x.out.send(resp) })
	}}
}

// ClientStream returns the handler of a method whose request is a stream, the end of which receive
// says with io.EOF.
func ClientStream[Req, Resp any](method func(ctx context.Context, call *Call, receive func() (*Req, error)) (*Resp, error)) *Handler {
	return &Handler{streams: true, serve: func(ctx context.Context, call *Call, x *exchange) error {
		resp, err := method(ctx, call, func() (*Req, error) {
			req := new(Req)
			return req, x.next(req)
		})
		if err != nil {
			return err
		}
		return x.out.send(resp)
	}}
}

// OwnTimeout leaves it to the method what Call.Timeout means. Otherwise it ends the context.
func (h *Handler) OwnTimeout() *Handler {
	h.ownTimeout = true
	return h
}

// codec is one of the two forms of messages.
type codec struct {
	name   string
	append func([]byte, any) []byte
	decode func([]byte, any) error
}

func (c codec) unmarshal(data []byte, msg any) error {
	if err := c.decode(data, msg); err != nil {
		return Errorf(InvalidArgument, "the request is not a valid message: %v", err)
	}
	return nil
}

// codecOf returns the codec that a content type names, or false.
func (h *Handler) codecOf(contentType string) (codec, bool) {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return codec{}, false
	}
	prefix := "application/"
	if h.streams {
		prefix += "connect+"
	}
	switch media {
	case prefix + "json":
		return codec{name: media, append: wire.AppendJSON, decode: wire.UnmarshalJSON}, true
	case prefix + "proto":
		return codec{name: media, append: wire.AppendBinary, decode: wire.UnmarshalBinary}, true
	}
	return codec{}, false
}

// exchange is one call on the wire.
type exchange struct {
	request *http.Request
	writer  http.ResponseWriter
	codec   codec
	in      frames // of a stream
	out     writer
}

// ServeHTTP answers one call.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	codec, ok := h.codecOf(r.Header.Get("Content-Type"))
	if !ok {
		w.Header().Set("Accept-Post", h.accepts())
		w.WriteHeader(http.StatusUnsupportedMediaType)
		return
	}
	w.Header().Set("Content-Type", codec.name)
	x := &exchange{request: r, writer: w, codec: codec}
	call := &Call{Header: r.Header, Response: w.Header(), Trailer: http.Header{}}
	if h.streams {
		h.stream(call, x)
		return
	}
	w.Header().Set("Accept-Encoding", "gzip")
	if err := h.run(call, x); err != nil {
		asError(err).write(w)
	}
}

func (h *Handler) accepts() string {
	if h.streams {
		return "application/connect+json, application/connect+proto"
	}
	return "application/json, application/proto"
}

// stream answers a call of which a part at least is a stream. Whatever happens is told in its last frame.
func (h *Handler) stream(call *Call, x *exchange) {
	call.Response.Set("Connect-Accept-Encoding", "gzip")
	x.out = writer{w: x.writer, codec: x.codec}
	gunzip, err := compression(call.Header.Get("Connect-Content-Encoding"))
	if err == nil {
		x.in = frames{body: x.request.Body, gunzip: gunzip}
		err = h.run(call, x)
	}
	if err != nil {
		x.out.end(asError(err), call.Trailer)
		return
	}
	x.out.end(nil, call.Trailer)
}

// run serves the call within its timeout.
func (h *Handler) run(call *Call, x *exchange) error {
	if version := call.Header.Get("Connect-Protocol-Version"); version != "" && version != "1" {
		return Errorf(InvalidArgument, "connect-protocol-version must be \"1\": got %.20q", version)
	}
	var err error
	if call.Timeout, err = timeout(call.Header.Get("Connect-Timeout-Ms")); err != nil {
		return err
	}
	ctx := x.request.Context()
	if call.Timeout > 0 && !h.ownTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, call.Timeout)
		defer cancel()
	}
	return h.serve(ctx, call, x)
}

// maxTimeoutDigits is the protocol's limit: 115 days.
const maxTimeoutDigits = 10

func timeout(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.ParseUint(text, 10, 63)
	if err != nil || len(text) > maxTimeoutDigits {
		return 0, Errorf(InvalidArgument, "Connect-Timeout-Ms must be a number of at most %d digits", maxTimeoutDigits)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// next reads the next message of the request's stream.
func (x *exchange) next(req any) error {
	data, err := x.in.next()
	if err != nil {
		return err
	}
	return x.codec.unmarshal(data, req)
}

// only reads the one message of a stream that must have one. Reading to the end also makes the HTTP server
// notice a caller that goes away.
func (x *exchange) only(req any) error {
	err := x.next(req)
	if errors.Is(err, io.EOF) {
		return Errorf(InvalidArgument, "the request has no message")
	}
	if err != nil {
		return err
	}
	if _, err := x.in.next(); !errors.Is(err, io.EOF) {
		return Errorf(InvalidArgument, "the request has more than one message")
	}
	return nil
}

// reply answers a unary call.
func (x *exchange) reply(resp any, trailer http.Header) {
	for name, values := range trailer {
		x.writer.Header()["Trailer-"+name] = values
	}
	_, _ = x.writer.Write(x.codec.append(nil, resp)) // the caller is gone if this fails
}
