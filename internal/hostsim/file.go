package hostsim

import (
	"errors"
	"io"
	"strconv"
	"strings"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Special paths of a simulated guest. All others hold what was written to them.
const (
	Zeros  = "/zeros/"  // Zeros + "N" reads as N zero bytes, never held in memory
	Sink   = "/sink"    // takes any amount
	Full   = "/full"    // a write fails once something has arrived
	Dir    = "/dir"     // a directory
	Secret = "/secret"  // may not be read or written
	Broken = "/broken/" // Broken + "N" fails after N bytes of a file that is said to be longer
	Torn   = "/torn/"   // Torn + "N" fails after N bytes of a file that tells no size
)

// ReadFile implements HostAgentService.
func (h *Host) ReadFile(req *pb.ReadFileRequest, stream grpc.ServerStreamingServer[pb.ReadFileResponse]) error {
	path := req.GetPath()
	if err := h.checkFile(req.GetSandboxId(), path); err != nil {
		return err
	}
	if n, ok := strings.CutPrefix(path, Zeros); ok {
		return sendZeros(stream, path, size(n), size(n))
	}
	if n, ok := strings.CutPrefix(path, Torn); ok {
		if err := sendZeros(stream, path, size(n), 0); err != nil {
			return err
		}
		return models.Errorf(models.Internal, "disk error")
	}
	if n, ok := strings.CutPrefix(path, Broken); ok {
		if err := sendZeros(stream, path, size(n), size(n)+1); err != nil {
			return err
		}
		return models.Errorf(models.Internal, "disk error")
	}
	h.mu.Lock()
	content, ok := h.files[path]
	h.mu.Unlock()
	if !ok {
		return models.Errorf(models.NotFound, "there is no file %s", path)
	}
	if err := sendInfo(stream, path, len(content)); err != nil {
		return err
	}
	return stream.Send(&pb.ReadFileResponse{Part: &pb.ReadFileResponse_Data{Data: content}})
}

func (h *Host) checkFile(sandbox, path string) error {
	switch {
	case h.State(sandbox) != pb.SandboxState_SANDBOX_STATE_RUNNING:
		return missing(sandbox)
	case path == Dir:
		return models.Errorf(models.Invalid, "%s is a directory", path)
	case path == Secret:
		return models.Errorf(models.Forbidden, "the user may not open %s", path)
	}
	return nil
}

func size(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("hostsim: " + err.Error()) // the test's own mistake
	}
	return n
}

func sendInfo(stream grpc.ServerStreamingServer[pb.ReadFileResponse], path string, n int) error {
	info := &pb.FileInfo{Path: path, Size: int64(n)}
	return stream.Send(&pb.ReadFileResponse{Part: &pb.ReadFileResponse_Info{Info: info}})
}

func sendZeros(stream grpc.ServerStreamingServer[pb.ReadFileResponse], path string, n, said int) error {
	if err := sendInfo(stream, path, said); err != nil {
		return err
	}
	piece := make([]byte, 256<<10)
	for ; n > 0; n -= len(piece) {
		piece = piece[:min(n, len(piece))]
		if err := stream.Send(&pb.ReadFileResponse{Part: &pb.ReadFileResponse_Data{Data: piece}}); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile implements HostAgentService.
func (h *Host) WriteFile(stream grpc.ClientStreamingServer[pb.WriteFileRequest, pb.WriteFileResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	path := first.GetTarget().GetPath()
	if err := h.checkFile(first.GetTarget().GetSandboxId(), path); err != nil {
		return err
	}
	var content []byte
	n := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err // nothing appears
		}
		if path == Full {
			return models.Errorf(models.Exhausted, "no space left on the disk")
		}
		if n += len(m.GetData()); path != Sink {
			content = append(content, m.GetData()...)
		}
	}
	h.mu.Lock()
	h.files[path] = content
	h.mu.Unlock()
	return stream.SendAndClose(&pb.WriteFileResponse{Info: &pb.FileInfo{Path: path, Size: int64(n)}})
}

// File returns what was written to path.
func (h *Host) File(path string) ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	content, ok := h.files[path]
	return content, ok
}
