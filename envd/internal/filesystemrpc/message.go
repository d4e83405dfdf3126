// Package filesystemrpc serves files in the guest over Connect, as the service filesystem.Filesystem of
// proto/envd/filesystem/filesystem.proto.
package filesystemrpc

import "time"

// The messages of the .proto file, which says what they mean.

// Empty is every message without fields.
type Empty struct{}

// FileType is what an entry is.
type FileType int32

// The file types.
const (
	FileTypeUnspecified FileType = iota
	FileTypeFile
	FileTypeDirectory
	FileTypeSymlink
)

// Names are those of the protocol.
func (FileType) Names() map[int32]string {
	return map[int32]string{0: "FILE_TYPE_UNSPECIFIED", 1: "FILE_TYPE_FILE", 2: "FILE_TYPE_DIRECTORY", 3: "FILE_TYPE_SYMLINK"}
}

// EntryInfo describes a file, directory or symbolic link.
type EntryInfo struct {
	Name          string            `wire:"1,name"`
	Type          FileType          `wire:"2,type"`
	Path          string            `wire:"3,path"`
	Size          int64             `wire:"4,size"`
	Mode          uint32            `wire:"5,mode"`
	Permissions   string            `wire:"6,permissions"`
	Owner         string            `wire:"7,owner"`
	Group         string            `wire:"8,group"`
	ModifiedTime  *time.Time        `wire:"9,modified_time"`
	SymlinkTarget *string           `wire:"10,symlink_target"`
	Metadata      map[string]string `wire:"11,metadata"`
	IsSymlink     bool              `wire:"12,is_symlink"`
}

// PathRequest is the request of Stat, MakeDir and Remove.
type PathRequest struct {
	Path string `wire:"1,path"`
}

// EntryResponse is the answer of Stat, MakeDir and Move.
type EntryResponse struct {
	Entry *EntryInfo `wire:"1,entry"`
}

// MoveRequest is Move's.
type MoveRequest struct {
	Source      string `wire:"1,source"`
	Destination string `wire:"2,destination"`
}

// ListDirRequest is ListDir's.
type ListDirRequest struct {
	Path  string `wire:"1,path"`
	Depth uint32 `wire:"2,depth"`
}

// ListDirResponse is ListDir's.
type ListDirResponse struct {
	Entries []*EntryInfo `wire:"1,entries"`
}

// WatchRequest is the request of WatchDir and CreateWatcher.
type WatchRequest struct {
	Path               string `wire:"1,path"`
	Recursive          bool   `wire:"2,recursive"`
	IncludeEntry       bool   `wire:"3,include_entry"`
	AllowNetworkMounts bool   `wire:"4,allow_network_mounts"`
}

// EventType is what happened to an entry.
type EventType int32

// The event types.
const (
	EventTypeUnspecified EventType = iota
	EventTypeCreate
	EventTypeWrite
	EventTypeRemove
	EventTypeRename
	EventTypeChmod
)

// Names are those of the protocol.
func (EventType) Names() map[int32]string {
	return map[int32]string{
		0: "EVENT_TYPE_UNSPECIFIED", 1: "EVENT_TYPE_CREATE", 2: "EVENT_TYPE_WRITE",
		3: "EVENT_TYPE_REMOVE", 4: "EVENT_TYPE_RENAME", 5: "EVENT_TYPE_CHMOD",
	}
}

// FilesystemEvent is something that happened in a watched directory.
type FilesystemEvent struct {
	Name  string     `wire:"1,name"`
	Type  EventType  `wire:"2,type"`
	Entry *EntryInfo `wire:"3,entry"`
}

// WatchDirResponse is one event of WatchDir's stream.
type WatchDirResponse struct {
	Start      *Empty           `wire:"1,start,oneof=event"`
	Filesystem *FilesystemEvent `wire:"2,filesystem,oneof=event"`
	Keepalive  *Empty           `wire:"3,keepalive,oneof=event"`
}

// WatcherRequest is the request of GetWatcherEvents and RemoveWatcher.
type WatcherRequest struct {
	WatcherID string `wire:"1,watcher_id"`
}

// CreateWatcherResponse is CreateWatcher's.
type CreateWatcherResponse struct {
	WatcherID string `wire:"1,watcher_id"`
}

// GetWatcherEventsResponse is GetWatcherEvents'.
type GetWatcherEventsResponse struct {
	Events []*FilesystemEvent `wire:"1,events"`
}
