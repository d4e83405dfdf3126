package envdclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxPath is PATH_MAX of limits.h.
const maxPath = 4096

// FileInfo describes a file in the guest.
type FileInfo struct {
	Path string // absolute, as the guest resolved it
	Size int64
}

// File is a file that is being read. The caller closes it.
type File struct {
	// Size is -1 where the guest does not know it, as for large files of /proc.
	Size   int64
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *watchdog
	body   io.ReadCloser
}

// ReadFile opens a file. Path is absolute or relative to the user's home; an empty user is the
// default one. Reading ends with an error, not with io.EOF, if the guest goes away, is silent for a minute,
// or the file shrinks meanwhile. It ends with ctx.
func (c *Client) ReadFile(ctx context.Context, path, user string) (*File, error) {
	ctx, cancel := c.bound(ctx)
	watch := newWatchdog(c.limits.answer, cancel)
	watch.arm()
	resp, failure := c.roundTrip(ctx, http.MethodGet, fileURL(path, user), nil)
	if failure != nil {
		watch.stop()
		cancel(nil)
		return nil, failure
	}
	watch.rest()
	watch.limit = c.limits.silence
	return &File{Size: resp.ContentLength, ctx: ctx, cancel: cancel, watch: watch, body: resp.Body}, nil
}

// Read reads the next part of the file.
func (f *File) Read(p []byte) (int, error) {
	f.watch.arm()
	defer f.watch.rest()
	n, err := f.body.Read(p)
	if err != nil && err != io.EOF {
		failure := transportError(f.ctx, err)
		if failure.Code == models.Unavailable && errors.Is(err, io.ErrUnexpectedEOF) {
			failure = models.Errorf(models.Unavailable, "the file could not be read to its end: the guest went away, or the file shrank").WithCause(err)
		}
		return n, failure
	}
	return n, err
}

// Close ends the reading.
func (f *File) Close() error {
	f.watch.stop()
	f.cancel(nil)
	_ = f.body.Close() // says only what Read has said
	return nil
}

// WriteFile stores what r delivers as a file, whole or not at all. Missing folders are made. Path and
// user are as for ReadFile. It takes as long as r does; the guest must take each part within a minute.
// An error of r is returned as it is. After an error a Read of r may still be under way, as after one of
// package http.
func (c *Client) WriteFile(ctx context.Context, path, user string, r io.Reader) (FileInfo, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel(nil)
	watch := newWatchdog(c.limits.silence, cancel)
	watch.arm()
	defer watch.stop()
	body := &source{reader: r, watch: watch}
	resp, failure := c.roundTrip(ctx, http.MethodPost, fileURL(path, user), body)
	if err := body.failure(); err != nil {
		closeBody(resp)
		return FileInfo{}, err
	}
	if failure != nil {
		return FileInfo{}, failure
	}
	defer closeBody(resp)
	var entries []struct {
		Path string `json:"path"`
	}
	err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&entries)
	if err != nil || len(entries) != 1 || len(entries[0].Path) > maxPath {
		return FileInfo{}, transportError(ctx, errors.Join(errors.New("unexpected answer to an upload"), err))
	}
	return FileInfo{Path: entries[0].Path, Size: body.size()}, nil
}

// roundTrip makes a request of /files; an answer other than 200 is an error.
func (c *Client) roundTrip(ctx context.Context, method, target string, body io.Reader) (*http.Response, *models.Error) {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, models.Errorf(models.Invalid, "the path cannot be sent").WithCause(err)
	}
	c.authorize(req.Header)
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Expect", "100-continue") // a refusal comes before the data is sent
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer closeBody(resp)
		return nil, statusError(resp)
	}
	return resp, nil
}

func closeBody(resp *http.Response) {
	if resp != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // so that the connection can be used again
		_ = resp.Body.Close()
	}
}

func fileURL(path, user string) string {
	query := url.Values{"path": {path}}
	if user != "" {
		query.Set("username", user)
	}
	return base + "/files?" + query.Encode()
}
