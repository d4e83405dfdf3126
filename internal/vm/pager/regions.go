package pager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// region is a part of the guest's memory, as the VMM describes it: GuestRegionUffdMapping in Firecracker's src/vmm/src/persist.rs.
type region struct {
	Base     uint64 `json:"base_host_virt_addr"`
	Size     uint64 `json:"size"`
	Offset   uint64 `json:"offset"` // in the memory as a file
	PageSize uint64 `json:"page_size"`
}

// maxRegions is more than any guest has: one below the gap in the address space, one above.
const maxRegions = 16

// maxGreeting is the longest message that describes them.
const maxGreeting = 8 << 10

// receive waits for the VMM, and takes its userfaultfd and where its guest's memory is.
func receive(ctx context.Context, l *net.UnixListener, size int64) (*guest, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	text, rights := make([]byte, maxGreeting), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	fd, err := takeDescriptor(rights[:m])
	if err != nil {
		return nil, err
	}
	regions, err := parseRegions(text[:n], size)
	if err == nil {
		err = uffd.Check(fd)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newGuest(fd, regions), nil
}

func takeDescriptor(rights []byte) (int, error) {
	if len(rights) == 0 {
		return -1, errors.New("the VMM sent no descriptor")
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return -1, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err == nil && len(fds) != 1 {
		err = fmt.Errorf("the VMM sent %d descriptors", len(fds))
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return -1, err
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// parseRegions holds that the regions are one after the other all of the memory. More is not asked of a VMM about its own addresses.
func parseRegions(text []byte, size int64) ([]region, error) {
	var regions []region
	if err := json.Unmarshal(text, &regions); err != nil {
		return nil, fmt.Errorf("the VMM's memory: %w", err)
	}
	if len(regions) > maxRegions {
		return nil, fmt.Errorf("the VMM's memory has %d regions", len(regions))
	}
	end := uint64(0)
	for _, r := range regions {
		if r.Offset != end || r.PageSize != uffd.PageSize || r.Size%uffd.PageSize != 0 || r.Base%uffd.PageSize != 0 || r.Size > uint64(size)-end || r.Base+r.Size < r.Base {
			return nil, fmt.Errorf("the VMM's memory of %d bytes cannot have the region %+v", size, r)
		}
		end += r.Size
	}
	if end != uint64(size) {
		return nil, fmt.Errorf("the VMM's memory has %d bytes, not %d", end, size)
	}
	return regions, nil
}
