package wrenn

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"unicode/utf8"
)

// FileOption changes how a file is read or written.
type FileOption func(url.Values)

// AsUser uses the rights and the home directory of a user of the guest instead of the template's default user.
func AsUser(name string) FileOption {
	return func(q url.Values) { q.Set("user", name) }
}

// WrittenFile is a file as it was written.
type WrittenFile struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // in bytes
}

// WriteFile writes what r gives, at most 16 GiB, to a file of the guest; missing directories are made. The file appears
// whole or not at all. path is absolute or relative to the user's home directory. It is never repeated. When r is an
// io.Closer it is closed.
func (c *Client) WriteFile(ctx context.Context, id, path string, r io.Reader, opts ...FileOption) (*WrittenFile, error) {
	target, err := filePath(id, path, opts)
	if err != nil {
		return nil, err
	}
	if r == nil {
		r = http.NoBody
	}
	var written WrittenFile
	if err := c.exchange(ctx, request{method: http.MethodPut, path: target, stream: r}, &written); err != nil {
		return nil, err
	}
	return &written, nil
}

// ReadFile opens a file of the guest. The caller must close it. A reader that ends with io.EOF gave the whole
// file; any other error means that the rest could not be read.
func (c *Client) ReadFile(ctx context.Context, id, path string, opts ...FileOption) (io.ReadCloser, error) {
	target, err := filePath(id, path, opts)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, request{method: http.MethodGet, path: target})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func filePath(id, path string, opts []FileOption) (string, error) {
	base, err := sandboxPath(id, "files")
	if err != nil {
		return "", err
	}
	if path == "" || !utf8.ValidString(path) {
		return "", invalid("the path of a file must be UTF-8 and not empty")
	}
	query := url.Values{"path": {path}}
	for _, o := range opts {
		o(query)
	}
	return base + "?" + query.Encode(), nil
}
