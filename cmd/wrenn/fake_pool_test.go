package main

import (
	"net/http"
	"strconv"
)

// pool answers as if one sandbox ran.
func (f *fake) pool(w http.ResponseWriter) {
	share := func(limit any, used int) map[string]any { return map[string]any{"limit": limit, "used": used} }
	reply(w, 200, map[string]any{"vcpus": share(8, 1), "memory_mib": share(nil, 256), "disk_mib": share(0, 512), "sandboxes": share(1, 1)})
}

func waitsTooLong(r *http.Request) bool {
	seconds, err := strconv.Atoi(r.URL.Query().Get("wait_seconds"))
	return err == nil && seconds > 600
}
