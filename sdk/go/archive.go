package wrenn

import (
	"context"
	"io"
	"net/http"
)

const tarType = "application/x-tar"

// ReadArchive opens what is in a directory of the guest as a tar archive, which is made while it is read. The caller must
// close it. A reader that ends with io.EOF gave the whole archive.
func (c *Client) ReadArchive(ctx context.Context, id, path string, opts ...FileOption) (io.ReadCloser, error) {
	target, err := filePath(id, path, opts)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, request{method: http.MethodGet, path: target, accept: tarType})
	if err != nil {
		return nil, err
	}
	if contentType(resp) != tarType {
		resp.Body.Close()
		return nil, invalid("%s is no directory", path)
	}
	return resp.Body, nil
}

// WriteArchive unpacks a tar archive into a directory of the guest as it comes; nothing of it lands outside. An archive that
// breaks off leaves what came before. It is never repeated. When r is an io.Closer it is closed.
func (c *Client) WriteArchive(ctx context.Context, id, path string, r io.Reader, opts ...FileOption) error {
	target, err := filePath(id, path, opts)
	if err != nil {
		return err
	}
	return c.exchange(ctx, request{method: http.MethodPut, path: target, stream: r, kind: tarType}, nil)
}
