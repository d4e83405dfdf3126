package tunnel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// preface is what a caller sends first; it ends with the protocol's version. HTTP/2's begins with another letter.
const preface, version = "wrenn-tunnel/", "1\n"

// kind says what a record is.
type kind byte

const (
	data kind = iota
	end
	failed
	open
)

// limits of what follows the header of a record.
var limits = [...]int{data: MaxData, end: 0, failed: 64 << 10, open: 256}

const headerSize = 4

func putHeader(b []byte, k kind, length int) {
	binary.BigEndian.PutUint32(b, uint32(k)<<24|uint32(length))
}

// next reads the header of a record. An error leaves in r what there is of it. The end of r before it is io.EOF.
func next(r *bufio.Reader) (kind, int, error) {
	header, err := r.Peek(headerSize)
	switch {
	case errors.Is(err, io.EOF) && len(header) > 0:
		return 0, 0, io.ErrUnexpectedEOF
	case err != nil:
		return 0, 0, err
	}
	k, length := kind(header[0]), int(binary.BigEndian.Uint32(header)&(1<<24-1))
	if int(k) >= len(limits) || length > limits[k] {
		return 0, 0, models.Errorf(models.Invalid, "a tunnel has no record of kind %d with %d bytes", k, length)
	}
	_, err = r.Discard(headerSize)
	return k, length, err
}

// send writes a record, and returns how much of it was written, header and all.
func send(w io.Writer, k kind, body []byte) (int64, error) {
	header := make([]byte, headerSize)
	putHeader(header, k, len(body))
	parts := net.Buffers{header, body} // one system call, and no copy
	if len(body) == 0 {
		parts = parts[:1]
	}
	return parts.WriteTo(w)
}

// sendEnd tells the other side why nothing more comes: err as grpcerr.Encode returned it, or nil for the end that is expected.
func sendEnd(w io.Writer, err error) error {
	k, body := end, []byte(nil)
	if err != nil {
		k = failed
		if body, err = proto.Marshal(status.Convert(err).Proto()); err != nil {
			return err
		}
	}
	_, err = send(w, k, body)
	return err
}

// reason reads what a record says of a failure.
func reason(r io.Reader, length int) error {
	st := status.New(0, "").Proto()
	if err := message(r, length, st); err != nil {
		return lost(err)
	}
	if st.GetCode() == 0 {
		return lost(errors.New("a failure that is none"))
	}
	return grpcerr.Decode(status.ErrorProto(st))
}

func message(r io.Reader, length int, m proto.Message) error {
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return proto.Unmarshal(body, m)
}

// readOpening reads how a caller begins.
func readOpening(r *bufio.Reader) (sandbox string, err error) {
	begin := make([]byte, len(preface)+len(version))
	if _, err := io.ReadFull(r, begin); err != nil {
		return "", lost(err)
	}
	switch {
	case string(begin[:len(preface)]) != preface:
		return "", models.Errorf(models.Invalid, "this is not how a tunnel begins")
	case string(begin[len(preface):]) != version:
		return "", models.Errorf(models.Invalid, "the control plane and the host's agent are of different versions").WithHint("update the older one")
	}
	k, length, err := next(r)
	if err == nil && k != open {
		err = models.Errorf(models.Invalid, "a tunnel begins with another record")
	}
	req := &pb.TunnelRequest{}
	if err == nil {
		err = message(r, length, req)
	}
	return req.GetSandboxId(), lost(err)
}

// lost codes what a connection between control plane and agent failed with, if that is not coded yet.
func lost(err error) error {
	var coded *models.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	if errors.Is(err, io.EOF) { // which would be taken for an end in order
		err = io.ErrUnexpectedEOF
	}
	return models.Errorf(models.Unavailable, "the connection to the sandbox's host was lost").WithCause(err)
}
