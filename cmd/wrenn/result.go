package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// resultWriter shows the values of code: what is text here, the rest in files.
type resultWriter struct {
	app    *app
	folder string // for files; "" for none
	files  int    // how many values have files
}

func (w *resultWriter) show(r wrenn.ExecutionResult) error {
	text := shownText(r)
	if text != "" {
		if _, err := fmt.Fprintln(w.app.stdout, strings.TrimSuffix(text, "\n")); err != nil {
			return err
		}
	}
	var kept []string
	for _, kind := range slices.Sorted(maps.Keys(r.Data)) {
		if extensionOf(kind) != "" {
			kept = append(kept, kind)
		}
	}
	switch {
	case len(kept) == 0:
		return nil
	case w.folder == "":
		fmt.Fprintf(w.app.stderr, "wrenn: not shown: %s; --output DIR writes it to a file\n", printable(strings.Join(kept, ", ")))
		return nil
	}
	return w.save(r, kept)
}

// shownText is a value as text: its own, which tables have too, else as JSON.
func shownText(r wrenn.ExecutionResult) string {
	for _, kind := range []string{"text/plain", "text/markdown", "text/html", "text/latex"} {
		if text := r.Text(kind); text != "" {
			return text
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Data)) {
		var indented bytes.Buffer
		if isJSON(kind) && json.Indent(&indented, r.Data[kind], "", "  ") == nil {
			return indented.String()
		}
	}
	return ""
}

func isJSON(kind string) bool { return kind == "application/json" || strings.HasSuffix(kind, "+json") }

// extensionOf is that of a file for a representation that cannot be shown as text; "" for one that can.
func extensionOf(kind string) string {
	media, _, err := mime.ParseMediaType(kind)
	switch {
	case err != nil || isJSON(media):
		return ""
	case media == "image/png":
		return ".png"
	case media == "image/jpeg":
		return ".jpg"
	case media == "image/svg+xml":
		return ".svg"
	case media == "application/pdf":
		return ".pdf"
	case strings.HasPrefix(media, "text/"):
		return ""
	}
	if known, err := mime.ExtensionsByType(media); err == nil && len(known) > 0 {
		return known[0]
	}
	return ".bin"
}

// save writes representations of one value to files of one name, whole or not at all. Files that are there are kept.
func (w *resultWriter) save(r wrenn.ExecutionResult, kinds []string) error {
	if err := os.MkdirAll(w.folder, 0o777); err != nil { // less the umask
		return localError(err)
	}
	w.files++
	for _, kind := range kinds {
		content, err := decodedResult(kind, r.Text(kind))
		if err != nil {
			return err
		}
		name, err := w.create(extensionOf(kind), content)
		if err != nil {
			return localError(err)
		}
		fmt.Fprintf(w.app.stderr, "wrenn: wrote %s\n", printable(name))
	}
	return nil
}

// create writes a file whose name nobody has.
func (w *resultWriter) create(extension string, content []byte) (string, error) {
	for n := w.files; ; n++ {
		name := filepath.Join(w.folder, fmt.Sprintf("result-%d%s", n, extension))
		if _, err := os.Lstat(name); err == nil {
			continue
		}
		return name, replace(bytes.NewReader(content), name, 0o666, false) // less the umask
	}
}

// decodedResult is what a kernel sent as base64, but for SVG, which is text.
func decodedResult(kind, text string) ([]byte, error) {
	if strings.HasPrefix(kind, "image/svg+xml") {
		return []byte(text), nil
	}
	content, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, models.Errorf(models.Unavailable, "a result of type %s is not base64", kind).WithCause(err)
	}
	return content, nil
}
