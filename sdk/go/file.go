package wrenn

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"unicode/utf8"
)

// FileOption changes how a file is read or written.
type FileOption func(url.Values)

// AsUser uses the rights and the home directory of a user of the guest instead of the template's default user.
func AsUser(name string) FileOption {
	return func(q url.Values) { q.Set("user", name) }
}

// WithMode gives a file that is written these permissions, such as 0o755, from the moment it is there. Without it a file that
// is replaced keeps its own, and a new one has 0o644.
func WithMode(mode uint32) FileOption {
	return func(q url.Values) { q.Set("mode", fmt.Sprintf("%04o", mode)) }
}

// WrittenFile is a file as it was written.
type WrittenFile struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // in bytes
}

// WriteFile writes what r gives, at most 16 GiB, to a file of the guest; missing directories are made. The file appears
// whole or not at all. path is absolute or relative to the user's home directory. It is never repeated. When r is an
// io.Closer it is closed. When r has a method Len() int, as a bytes.Reader has, it must give that many bytes: they go faster,
// and a guest that has no room for them refuses at once.
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

// File is a file of the guest, as it is read. A reader that ends with io.EOF gave all that was asked for; any other error
// means that the rest could not be read.
type File struct {
	io.ReadCloser
	Size int64 // how many bytes there are to read; -1 when that is not known
}

// ReadFile opens a file of the guest. The caller must close it. A directory is an Invalid error.
func (c *Client) ReadFile(ctx context.Context, id, path string, opts ...FileOption) (*File, error) {
	return c.openFile(ctx, id, path, nil, opts)
}

// ReadFileRange opens the part of a file that begins at offset and has length bytes, or fewer where the file
// ends before; length 0 means up to its end. An offset beyond the end is an Invalid error. The caller must close it.
func (c *Client) ReadFileRange(ctx context.Context, id, path string, offset, length int64, opts ...FileOption) (*File, error) {
	if offset < 0 || length < 0 {
		return nil, invalid("offset and length must not be negative")
	}
	part := fmt.Sprintf("bytes=%d-", offset)
	if length > 0 {
		part += strconv.FormatInt(offset+length-1, 10)
	}
	file, err := c.openFile(ctx, id, path, map[string]string{"Range": part}, opts)
	if err != nil {
		return nil, err
	}
	return file, nil
}

func (c *Client) openFile(ctx context.Context, id, path string, header map[string]string, opts []FileOption) (*File, error) {
	target, err := filePath(id, path, opts)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, request{method: http.MethodGet, path: target, accept: "application/octet-stream", header: header})
	if err != nil {
		return nil, err
	}
	switch {
	case contentType(resp) == "application/json":
		err = invalid("%s is a directory", path)
	case header != nil && resp.StatusCode != http.StatusPartialContent:
		err = invalid("%s can only be read whole", path)
	default:
		return &File{ReadCloser: resp.Body, Size: resp.ContentLength}, nil
	}
	resp.Body.Close()
	return nil, err
}

func filePath(id, path string, opts []FileOption) (string, error) {
	query, err := fileQuery(path, opts)
	if err != nil {
		return "", err
	}
	return filesPath(id, query)
}

func filesPath(id string, query url.Values) (string, error) {
	base, err := sandboxPath(id, "files")
	return withQuery(base, query), err
}

func fileQuery(path string, opts []FileOption) (url.Values, error) {
	if path == "" || !utf8.ValidString(path) {
		return nil, invalid("the path of a file must be UTF-8 and not empty")
	}
	query := url.Values{"path": {path}}
	for _, o := range opts {
		o(query)
	}
	return query, nil
}
