package envdclient

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem"
)

// EntryType is what an entry of a directory is.
type EntryType string

// The types of entries. TypeSymlink is a link that leads nowhere; of others the type is that of what they lead to.
const (
	TypeFile      EntryType = "file"
	TypeDirectory EntryType = "directory"
	TypeSymlink   EntryType = "symlink"
	TypeOther     EntryType = "other" // a device, a pipe, a socket
)

var entryTypes = map[pb.FileType]EntryType{
	pb.FileType_FILE_TYPE_FILE:      TypeFile,
	pb.FileType_FILE_TYPE_DIRECTORY: TypeDirectory,
	pb.FileType_FILE_TYPE_SYMLINK:   TypeSymlink,
}

// Entry describes a file or directory in the guest.
type Entry struct {
	Name, Path    string
	Type          EntryType
	Size          int64
	Mode          uint32 // permission bits as in chmod(2)
	Owner, Group  string // names, or numbers where there is no name
	ModifiedAt    time.Time
	SymlinkTarget string
	Metadata      map[string]string // extended attributes, as E2B's protocol has them
}

func entryOf(e *pb.EntryInfo) Entry {
	kind, known := entryTypes[e.GetType()]
	if !known {
		kind = TypeOther
	}
	return Entry{
		Name: e.GetName(), Path: e.GetPath(), Type: kind, Size: e.GetSize(), Mode: e.GetMode(), Owner: e.GetOwner(), Group: e.GetGroup(),
		ModifiedAt: e.GetModifiedTime().AsTime(), SymlinkTarget: e.GetSymlinkTarget(), Metadata: e.GetMetadata(),
	}
}

// Stat describes what is at path. Here and below, path is absolute or relative to the home of the user, the
// default one where it is empty, and the user's permissions hold.
func (c *Client) Stat(ctx context.Context, path, user string) (Entry, error) {
	answer, err := unary(ctx, c, c.limits.answer, user, c.files.Stat, &pb.StatRequest{Path: path})
	return entryOf(answer.GetEntry()), err
}

// List describes what is in a directory, depth levels deep, by path.
func (c *Client) List(ctx context.Context, path, user string, depth int) ([]Entry, error) {
	if depth < 1 {
		return nil, models.Errorf(models.Invalid, "the depth must be at least 1")
	}
	answer, err := unary(ctx, c, c.limits.answer, user, c.files.ListDir, &pb.ListDirRequest{Path: path, Depth: uint32(depth)})
	if err != nil {
		return nil, err
	}
	all := make([]Entry, len(answer.GetEntries()))
	for i, e := range answer.GetEntries() {
		all[i] = entryOf(e)
	}
	return all, nil
}

// MakeDir makes a directory and its missing parents; Conflict when there is something already.
func (c *Client) MakeDir(ctx context.Context, path, user string) (Entry, error) {
	answer, err := unary(ctx, c, c.limits.answer, user, c.files.MakeDir, &pb.MakeDirRequest{Path: path})
	return entryOf(answer.GetEntry()), err
}

// Move renames a file or directory.
func (c *Client) Move(ctx context.Context, from, to, user string) (Entry, error) {
	answer, err := unary(ctx, c, c.limits.answer, user, c.files.Move, &pb.MoveRequest{Source: from, Destination: to})
	return entryOf(answer.GetEntry()), err
}

// Remove removes a file, or a directory with all in it, which may take long. It succeeds when there is nothing.
func (c *Client) Remove(ctx context.Context, path, user string) error {
	_, err := unary(ctx, c, c.limits.silence, user, c.files.Remove, &pb.RemoveRequest{Path: path})
	return err
}

// Chmod sets permission bits as in chmod(2), of all that is in a directory too when it is recursive.
func (c *Client) Chmod(ctx context.Context, path, user string, mode uint32, recursive bool) error {
	query := url.Values{"path": {path}, "mode": {fmt.Sprintf("%#o", mode)}}
	if user != "" {
		query.Set("username", user)
	}
	if recursive {
		query.Set("recursive", strconv.FormatBool(recursive))
	}
	_, finish, err := c.short(ctx, "POST", "/chmod?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	finish()
	return nil
}
