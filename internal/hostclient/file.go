package hostclient

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// FileRef names a file in a guest.
type FileRef struct {
	Sandbox id.Sandbox
	Path    string // absolute, or relative to the user's home directory
	User    string // "" for the template's default user
}

// FileInfo describes a file in a guest.
type FileInfo struct {
	Path string
	Size int64
}

// File is a file of a guest that is being read. One message of it is held in memory.
type File struct {
	FileInfo
	stream grpc.ServerStreamingClient[pb.ReadFileResponse]
	rest   []byte
}

// ReadFile opens a file of a guest. The read ends with ctx, which the caller must end.
func (c *Client) ReadFile(ctx context.Context, f FileRef) (*File, error) {
	stream, err := c.api.ReadFile(ctx, &pb.ReadFileRequest{SandboxId: string(f.Sandbox), Path: f.Path, User: f.User})
	if err != nil {
		return nil, grpcerr.Decode(err)
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, grpcerr.Decode(err)
	}
	info := first.GetInfo()
	return &File{FileInfo: FileInfo{Path: info.GetPath(), Size: info.GetSize()}, stream: stream, rest: first.GetData()}, nil
}

// Read implements io.Reader. Its errors are coded, but for io.EOF.
func (f *File) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		m, err := f.stream.Recv()
		if err != nil {
			return 0, grpcerr.Decode(err)
		}
		f.rest = m.GetData()
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// SourceError is a failure to read what WriteFile was to send: the guest is not at fault.
type SourceError struct{ Err error }

// Error returns the source's error.
func (e *SourceError) Error() string { return fmt.Sprintf("read the content: %v", e.Err) }

// Unwrap returns the source's error.
func (e *SourceError) Unwrap() error { return e.Err }

// WriteFile sends content to a file of a guest, one chunk at a time. The file appears whole
// or, after an error, not at all. A failure of content is a *SourceError.
func (c *Client) WriteFile(ctx context.Context, f FileRef, content io.Reader) (FileInfo, error) {
	ctx, cancel := context.WithCancel(ctx) // a return before the end must not look like the end of the file
	defer cancel()
	stream, err := c.api.WriteFile(ctx)
	if err != nil {
		return FileInfo{}, grpcerr.Decode(err)
	}
	target := &pb.WriteFileTarget{SandboxId: string(f.Sandbox), Path: f.Path, User: f.User}
	err = stream.Send(&pb.WriteFileRequest{Part: &pb.WriteFileRequest_Target{Target: target}})
	if err == nil {
		err = sendAll(stream, content)
	}
	var source *SourceError
	if errors.As(err, &source) {
		return FileInfo{}, err
	}
	// io.EOF says that the agent has ended the call; its answer tells why.
	if err != nil && !errors.Is(err, io.EOF) {
		return FileInfo{}, grpcerr.Decode(err)
	}
	resp, err := stream.CloseAndRecv()
	if errors.Is(err, io.EOF) {
		return FileInfo{}, models.Errorf(models.Unavailable, "the connection to the host was lost").WithCause(err)
	}
	return FileInfo{Path: resp.GetInfo().GetPath(), Size: resp.GetInfo().GetSize()}, grpcerr.Decode(err)
}

func sendAll(stream grpc.ClientStreamingClient[pb.WriteFileRequest, pb.WriteFileResponse], content io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := fill(content, buf)
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return &SourceError{Err: err}
		}
		if n > 0 { // Send encodes the message before it returns: buf can be used again
			part := &pb.WriteFileRequest{Part: &pb.WriteFileRequest_Data{Data: buf[:n]}}
			if err := stream.Send(part); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
	}
}

// fill reads until buf is full or r fails. Unlike io.ReadFull it leaves the error as it is: io.EOF is the
// end of the file, and the io.ErrUnexpectedEOF of a client that went away must not be taken for it.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
