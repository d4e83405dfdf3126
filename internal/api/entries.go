package api

import (
	"net/http"
	"path"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// entryView is the schema Entry.
type entryView struct {
	Name          string  `json:"name"`
	Path          string  `json:"path"`
	Type          string  `json:"type"`
	Size          int64   `json:"size"`
	Mode          string  `json:"mode"`
	Owner         string  `json:"owner"`
	Group         string  `json:"group"`
	ModifiedAt    apiTime `json:"modified_at"`
	SymlinkTarget *string `json:"symlink_target"`
}

func viewOfEntry(e envdclient.Entry) entryView {
	return entryView{
		Name: e.Name, Path: e.Path, Type: string(e.Type), Size: e.Size, Mode: "0" + strconv.FormatUint(uint64(e.Mode), 8),
		Owner: e.Owner, Group: e.Group, ModifiedAt: apiTime(e.ModifiedAt), SymlinkTarget: orNull(e.SymlinkTarget),
	}
}
