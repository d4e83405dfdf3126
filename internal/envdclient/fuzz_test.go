package envdclient

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem"
)

// FuzzGuest: whatever a guest answers to whatever call, and then hangs up, the call ends with what it promises or a coded error.
func FuzzGuest(f *testing.F) {
	f.Add(uint8(0), []byte(okStream+chunk(started)+chunk(endOfStream(`{}`))+"0\r\n\r\n"))
	f.Add(uint8(0), []byte(okStream+chunk(started)+chunk(stillAlive)))
	f.Add(uint8(1), []byte(ok+"Content-Type: application/proto\r\nContent-Length: 4\r\n\r\n\x0a\x02\x0a\x00"))
	f.Add(uint8(2), []byte(ok+"Content-Length: 1\r\nContent-Range: \x01\r\n\r\nx"))
	f.Add(uint8(3), []byte("HTTP/1.1 204 No Content\r\n\r\n"))
	f.Add(uint8(4), []byte("HTTP/1.1 100 Continue\r\n\r\n"+ok+"Content-Length: 14\r\n\r\n[{\"path\":\"/x\"}]"))
	f.Add(uint8(5), []byte(okStream+chunk("\x00\x00\x00\x00\x02\x0a\x00")+chunk(endOfStream(`{"error":{"code":"x","message":"\u0000"}}`))))
	f.Add(uint8(6), []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: wrenn-port\r\n\r\n"))
	calls := []func(context.Context, *Client) error{
		execAll,
		func(ctx context.Context, c *Client) error { _, err := c.List(ctx, "x", "", 1); return err },
		readAll,
		func(ctx context.Context, c *Client) error {
			conn, err := c.Tunnel(ctx)
			if err == nil {
				_ = conn.Close()
			}
			return err
		},
		func(ctx context.Context, c *Client) error {
			_, err := c.WriteFile(ctx, "x", "", strings.NewReader("text"), unknownSize)
			return err
		},
		func(ctx context.Context, c *Client) error {
			w, err := c.Watch(ctx, "x", "", true)
			for err == nil {
				_, err = w.Next()
			}
			if w != nil {
				_ = w.Close()
			}
			return err
		},
		dialAll, attachAll,
	}
	f.Fuzz(func(t *testing.T, call uint8, answer []byte) {
		c := New(func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer func() { _ = theirs.Close() }()
				_, _ = theirs.Read(make([]byte, 64<<10))
				go func() { _, _ = io.Copy(io.Discard, theirs) }()
				_, _ = theirs.Write(answer)
			}()
			return ours, nil
		}, "secret")
		defer c.Close()
		c.limits = limits{answer: time.Minute, silence: time.Minute, killWait: time.Millisecond, grace: time.Minute}
		err := calls[int(call)%len(calls)](t.Context(), c)
		var coded *models.Error
		if err != nil && (!errors.As(err, &coded) || len(coded.Message) > 4*maxText+10 || strings.Contains(err.Error(), "secret")) {
			t.Errorf("error %v", err)
		}
	})
}

// FuzzCodec: what the codec decodes, the library decodes too; what it refuses is no message or a costly one.
func FuzzCodec(f *testing.F) {
	f.Add([]byte("\x0a\x02\x0a\x00"))
	f.Add([]byte("\x0a\xff\xff\xff\xff\x0f"))
	f.Add([]byte("\x0b\x0c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var ours, theirs pb.ListDirResponse
		err := boundedCodec{}.Unmarshal(data, &ours)
		if errTheirs := proto.Unmarshal(data, &theirs); (err == nil) != (errTheirs == nil) && !errors.Is(err, errCostly) {
			t.Errorf("%v, the library: %v", err, errTheirs)
		}
	})
}
