package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
)

// The files of the fake are in one map, by sandbox:user/path; a folder is a path that ends with a slash. Modes are in another.

func (f *fake) file(w http.ResponseWriter, r *http.Request, id, verb string, body []byte) {
	var in struct{ Path, Mode, User string }
	q := r.URL.Query()
	if verb != "" {
		if err := json.Unmarshal(body, &in); err != nil {
			refuse(w, 400, "invalid", "malformed", "")
			return
		}
		q.Set("path", in.Path)
		q.Set("user", in.User)
	}
	name := q.Get("path")
	if name == "/denied" {
		refuse(w, 403, "forbidden", "permission denied: /denied", "")
		return
	}
	name = strings.TrimSuffix(name, "/")
	key := id + ":" + q.Get("user") + name
	switch {
	case verb == "/mkdir":
		f.files[key+"/"] = ""
		reply(w, 200, f.entry(key, name))
	case verb == "/chmod":
		f.modes[key] = in.Mode
		reply(w, 200, f.entry(key, name))
	case r.Method == http.MethodPut && r.Header.Get("Content-Type") == "application/x-tar":
		f.unpack(w, key, body)
	case r.Method == http.MethodPut:
		f.files[key] = string(body)
		if mode := q.Get("mode"); mode != "" {
			f.modes[key] = mode
		}
		reply(w, 200, map[string]any{"path": name, "size": len(body)})
	case f.entry(key, name) == nil:
		refuse(w, 404, "not_found", "there is no file "+name, "")
	case q.Get("info") == "true":
		reply(w, 200, f.entry(key, name))
	case r.Header.Get("Accept") == "application/x-tar":
		w.Header().Set("Content-Type", "application/x-tar")
		f.pack(w, key)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, f.files[key])
	}
}

// entry describes what is at key; nil for nothing.
func (f *fake) entry(key, name string) map[string]any {
	e := map[string]any{"name": path.Base(name), "path": name, "owner": "user", "group": "user", "modified_at": "2026-01-02T03:04:05.678Z", "symlink_target": nil}
	content, isFile := f.files[key]
	_, isFolder := f.files[key+"/"]
	switch {
	case isFile:
		e["type"], e["size"], e["mode"] = "file", len(content), firstOf(f.modes[key], "0644")
	case isFolder:
		e["type"], e["size"], e["mode"] = "directory", 4096, "0755"
	default:
		return nil
	}
	return e
}

func (f *fake) unpack(w http.ResponseWriter, key string, body []byte) {
	total := 0
	for tr := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			refuse(w, 400, "invalid", err.Error(), "")
			return
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			refuse(w, 400, "invalid", err.Error(), "")
			return
		}
		name := path.Join(key, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			f.files[name+"/"] = ""
		case tar.TypeReg:
			f.files[name], f.modes[name] = string(content), "0"+strings.TrimPrefix(modeText(h.Mode), "0")
		case tar.TypeSymlink:
			f.links[name] = h.Linkname
		}
		total += len(content)
	}
	reply(w, 200, map[string]any{"path": key, "size": total})
}

func modeText(mode int64) string {
	text := ""
	for mode > 0 {
		text = string(rune('0'+mode%8)) + text
		mode /= 8
	}
	return text
}

// pack gives, beside what is in a folder, a device, which nobody wants.
func (f *fake) pack(w io.Writer, key string) {
	tw := tar.NewWriter(w)
	put := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		_ = tw.WriteHeader(&h) // into memory
		_, _ = io.WriteString(tw, content)
	}
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		below, inside := strings.CutPrefix(name, key+"/")
		switch {
		case !inside || below == "":
		case strings.HasSuffix(below, "/"):
			put(tar.Header{Typeflag: tar.TypeDir, Name: below, Mode: 0o755}, "")
		default:
			mode := int64(0o644)
			if f.modes[name] == "0755" {
				mode = 0o4755 // set-user-ID is not for us
			}
			put(tar.Header{Typeflag: tar.TypeReg, Name: below, Mode: mode}, f.files[name])
		}
	}
	for name, target := range f.links {
		if below, inside := strings.CutPrefix(name, key+"/"); inside {
			put(tar.Header{Typeflag: tar.TypeSymlink, Name: below, Linkname: target}, "")
		}
	}
	put(tar.Header{Typeflag: tar.TypeChar, Name: "device"}, "")
	if strings.HasSuffix(key, "/evil") {
		put(tar.Header{Typeflag: tar.TypeReg, Name: "../outside", Mode: 0o644}, "x")
	}
	_ = tw.Close()
}
