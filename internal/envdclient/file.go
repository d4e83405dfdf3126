package envdclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxPath is PATH_MAX of limits.h.
const maxPath = 4096

// FileInfo describes a file in the guest.
type FileInfo struct {
	Path string // absolute, as the guest resolved it
	Size int64
}

// File is a file, or an archive, that is being read. The caller closes it.
type File struct {
	// Size of what is read; -1 where the guest does not know it, as for archives and large files of /proc.
	Size int64
	// Status is 200, or what became of the conditions: 206, 304, 412 or 416. With the last three there is
	// nothing to read.
	Status int
	// Header has what the guest says of Content-Range, ETag, Last-Modified and Accept-Ranges, cleaned.
	Header http.Header

	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *watchdog
	body   io.ReadCloser
}

// conditional are the headers of a request for a file that are passed on, told those of the answer (RFC 9110,
// sections 13 and 14).
var (
	conditional = []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"}
	told        = []string{"Content-Range", "Etag", "Last-Modified", "Accept-Ranges"}
)

// ReadFile opens a file. Path is absolute or relative to the user's home; an empty user is the
// default one. Reading ends with an error, not with io.EOF, if the guest goes away, is silent for a minute,
// or the file shrinks meanwhile. It ends with ctx.
func (c *Client) ReadFile(ctx context.Context, path, user string) (*File, error) {
	return c.ReadFileIf(ctx, path, user, nil)
}

// ReadFileIf is ReadFile with the range and the conditions of an HTTP request. The header may have any other
// fields; they go nowhere.
func (c *Client) ReadFileIf(ctx context.Context, path, user string, header http.Header) (*File, error) {
	conditions := http.Header{}
	for _, name := range conditional {
		if values := header.Values(name); len(values) > 0 {
			conditions[name] = values
		}
	}
	return c.read(ctx, fileURL("/files", path, user), conditions)
}

// Archive reads a directory with all in it as a tar.
func (c *Client) Archive(ctx context.Context, path, user string) (*File, error) {
	return c.read(ctx, fileURL("/archive", path, user), http.Header{})
}

func (c *Client) read(ctx context.Context, target string, header http.Header) (*File, error) {
	ctx, cancel := c.bound(ctx)
	watch := newWatchdog(c.limits.answer, cancel)
	watch.arm()
	resp, failure := c.roundTrip(ctx, http.MethodGet, target, header, body{})
	if failure != nil {
		watch.stop()
		cancel(nil)
		return nil, failure
	}
	watch.rest()
	watch.limit = c.limits.silence
	f := &File{Size: resp.ContentLength, Status: resp.StatusCode, Header: http.Header{}, ctx: ctx, cancel: cancel, watch: watch, body: resp.Body}
	for _, name := range told {
		if value := resp.Header.Get(name); value != "" {
			f.Header.Set(name, clean(value))
		}
	}
	if f.Status != http.StatusOK && f.Status != http.StatusPartialContent {
		closeBody(resp)
		f.Size, f.body = 0, http.NoBody
	}
	return f, nil
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
// user are as for ReadFile. Size is how much r delivers, or negative where that is not known: the guest refuses early what
// it has no room for. It takes as long as r does; the guest must take each part within a minute.
// An error of r is returned as it is. After an error a Read of r may still be under way, as after one of
// package http.
func (c *Client) WriteFile(ctx context.Context, path, user string, r io.Reader, size int64) (FileInfo, error) {
	return c.WriteFileMode(ctx, path, user, nil, r, size)
}

// WriteFileMode is WriteFile with the permissions that the file has from the moment it is there. Nil are those of
// the file it replaces, or 0644.
func (c *Client) WriteFileMode(ctx context.Context, path, user string, mode *uint32, r io.Reader, size int64) (FileInfo, error) {
	target := fileURL("/files", path, user)
	if mode != nil {
		target += fmt.Sprintf("&mode=%04o", *mode)
	}
	var entries []struct {
		Path string `json:"path"`
	}
	sent, err := c.upload(ctx, target, "application/octet-stream", body{r, size}, func(answer io.Reader) error {
		if err := json.NewDecoder(answer).Decode(&entries); err != nil {
			return err
		}
		if len(entries) != 1 || len(entries[0].Path) > maxPath {
			return errors.New("unexpected answer to an upload")
		}
		return nil
	})
	if err != nil {
		return FileInfo{}, err
	}
	return FileInfo{Path: entries[0].Path, Size: sent}, nil
}

// Unpack makes the files of a tar, which r delivers, below path, which is made where it is missing. What was
// unpacked before an error stays. In all else it is as WriteFile.
func (c *Client) Unpack(ctx context.Context, path, user string, r io.Reader) error {
	_, err := c.upload(ctx, fileURL("/archive", path, user), "application/x-tar", body{r, unknownSize}, func(io.Reader) error { return nil })
	return err
}

// unknownSize is the size of a body of which that is not known.
const unknownSize = -1

// body is what is uploaded.
type body struct {
	reader io.Reader
	size   int64
}

// upload sends what b delivers, lets read read the answer, and returns how much was sent.
func (c *Client) upload(ctx context.Context, target, kind string, b body, read func(io.Reader) error) (int64, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel(nil)
	watch := newWatchdog(c.limits.silence, cancel)
	watch.arm()
	defer watch.stop()
	source := &source{reader: b.reader, watch: watch}
	header := http.Header{
		"Content-Type": {kind},
		"Expect":       {"100-continue"}, // a refusal comes before the data is sent
	}
	resp, failure := c.roundTrip(ctx, http.MethodPost, target, header, body{source, b.size})
	if err := source.failure(); err != nil {
		closeBody(resp)
		return 0, err
	}
	if failure != nil {
		return 0, failure
	}
	defer closeBody(resp)
	if err := read(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return 0, transportError(ctx, err)
	}
	return source.size(), nil
}

// roundTrip makes a request of /files or /archive; an answer that is no success is an error.
func (c *Client) roundTrip(ctx context.Context, method, target string, header http.Header, b body) (*http.Response, *models.Error) {
	req, err := http.NewRequestWithContext(ctx, method, target, b.reader)
	if err != nil {
		return nil, models.Errorf(models.Invalid, "the path cannot be sent").WithCause(err)
	}
	req.ContentLength = b.size // of a body 0 means unknown too
	req.Header = header
	c.authorize(req.Header)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	if !slices.Contains(successes[method], resp.StatusCode) {
		defer closeBody(resp)
		return nil, statusError(resp)
	}
	return resp, nil
}

// successes are the answers that are no errors: of GET also what conditions lead to.
var successes = map[string][]int{
	http.MethodGet: {
		http.StatusOK, http.StatusPartialContent, http.StatusNotModified,
		http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable,
	},
	http.MethodPost: {http.StatusOK, http.StatusNoContent},
}

func closeBody(resp *http.Response) {
	if resp != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // so that the connection can be used again
		_ = resp.Body.Close()
	}
}

func fileURL(route, path, user string) string {
	query := url.Values{"path": {path}}
	if user != "" {
		query.Set("username", user)
	}
	return base + route + "?" + query.Encode()
}
