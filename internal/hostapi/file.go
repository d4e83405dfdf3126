package hostapi

import (
	"io"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// chunk is how much of a file goes into one message: large enough that its overhead does not
// count, far below gRPC's limit of 4 MiB.
const chunk = 256 << 10

// ReadFile implements HostAgentService.
func (s *Server) ReadFile(req *pb.ReadFileRequest, stream grpc.ServerStreamingServer[pb.ReadFileResponse]) error {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return err
	}
	guest, err := s.agent.Guest(sb)
	if err != nil {
		return err
	}
	file, err := guest.ReadFile(stream.Context(), req.GetPath(), req.GetUser())
	if err != nil {
		return err
	}
	defer file.Close()
	info := &pb.FileInfo{Path: req.GetPath(), Size: file.Size}
	if err := stream.Send(&pb.ReadFileResponse{Part: &pb.ReadFileResponse_Info{Info: info}}); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for {
		n, err := file.Read(buf)
		if n > 0 {
			part := &pb.ReadFileResponse{Part: &pb.ReadFileResponse_Data{Data: buf[:n]}}
			if err := stream.Send(part); err != nil {
				return err
			}
		}
		if err == io.EOF { //nolint:errorlint // a file cut short may have io.EOF as its cause, and must not pass for whole
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// WriteFile implements HostAgentService.
func (s *Server) WriteFile(stream grpc.ClientStreamingServer[pb.WriteFileRequest, pb.WriteFileResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	target := first.GetTarget()
	if target == nil {
		return models.Errorf(models.Invalid, "the first request of a write must be its target")
	}
	sb, err := parse(target.GetSandboxId())
	if err != nil {
		return err
	}
	guest, err := s.agent.Guest(sb)
	if err != nil {
		return err
	}
	info, err := guest.WriteFile(stream.Context(), target.GetPath(), target.GetUser(), &upload{stream: stream})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&pb.WriteFileResponse{Info: &pb.FileInfo{Path: info.Path, Size: info.Size}})
}

// upload reads what a caller sends.
type upload struct {
	stream grpc.ClientStreamingServer[pb.WriteFileRequest, pb.WriteFileResponse]
	rest   []byte
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		req, err := u.stream.Recv()
		if err != nil {
			return 0, err
		}
		part, ok := req.GetPart().(*pb.WriteFileRequest_Data)
		if !ok {
			return 0, models.Errorf(models.Invalid, "a write has one target")
		}
		u.rest = part.Data
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}
