package main

import (
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// warmups is how many processes are started before one is timed.
const warmups = 20

const mib = 1 << 20

func (b *bench) execs(ctx context.Context) error {
	for _, e := range []struct {
		name, how string
		client    func(*server) processconnect.ProcessClient
		cmd       []string
	}{
		{"envd_exec_ms", "Start of /bin/true until its end, JSON", viaJSON, []string{"/bin/true"}},
		{"envd_exec_binary_ms", "the same, binary", viaBinary, []string{"/bin/true"}},
		{"envd_exec_bash_ms", "Start of bash -l -c true with HOME=/ until its end, JSON", viaJSON, []string{"/bin/bash", "-l", "-c", "true"}},
		{"envd_exec_bash_binary_ms", "the same, binary", viaBinary, []string{"/bin/bash", "-l", "-c", "true"}},
	} {
		err := b.byTurns(kind{name: e.name, unit: "ms", how: e.how}, warmups, b.options.execs, func(s *server) (float64, error) {
			begin := time.Now()
			_, err := s.exec(ctx, e.client(s), e.cmd[0], e.cmd[1:]...)
			return float64(time.Since(begin)) / float64(time.Millisecond), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func viaJSON(s *server) processconnect.ProcessClient   { return s.json }
func viaBinary(s *server) processconnect.ProcessClient { return s.binary }

func (b *bench) outputs(ctx context.Context) error {
	size := b.stdout * mib
	for _, o := range []struct {
		name, how string
		client    func(*server) processconnect.ProcessClient
	}{
		{"envd_stdout_mib_s", "binary", viaBinary},
		{"envd_stdout_json_mib_s", "JSON", viaJSON},
	} {
		how := fmt.Sprintf("%d MiB of output of one process, %s", b.stdout, o.how)
		err := b.byTurns(kind{name: o.name, unit: "MiB/s", how: how}, 0, b.rounds, func(s *server) (float64, error) {
			begin := time.Now()
			n, err := s.exec(ctx, o.client(s), "/usr/bin/head", "-c", strconv.FormatInt(size, 10), "/dev/zero")
			if err == nil && n != size {
				err = fmt.Errorf("%d bytes of output of %d", n, size)
			}
			return rate(size, begin), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func rate(bytes int64, begin time.Time) float64 {
	return float64(bytes) / mib / time.Since(begin).Seconds()
}

// files times uploads and then downloads, the first of which warms the file's cache.
func (b *bench) files(ctx context.Context) error {
	size := b.file * mib
	how := fmt.Sprintf("%d MiB to /files, octet-stream, or a form where that is refused", b.file)
	err := b.byTurns(kind{name: "envd_upload_mib_s", unit: "MiB/s", how: how}, 0, b.rounds, func(s *server) (float64, error) {
		begin := time.Now()
		err := s.upload(ctx, size)
		return rate(size, begin), err
	})
	if err != nil {
		return err
	}
	how = fmt.Sprintf("%d MiB from /files", b.file)
	return b.byTurns(kind{name: "envd_download_mib_s", unit: "MiB/s", how: how}, 1, b.rounds, func(s *server) (float64, error) {
		begin := time.Now()
		err := s.download(ctx, size)
		return rate(size, begin), err
	})
}

func (s *server) filesURL() string {
	query := url.Values{"path": {s.path}}
	if s.user != "" {
		query.Set("username", s.user)
	}
	return s.url + "/files?" + query.Encode()
}

// upload sends size bytes as they are or, to a server that refused that once, as a form.
func (s *server) upload(ctx context.Context, size int64) error {
	s.wrote = true
	if !s.form {
		status, err := s.post(ctx, io.LimitReader(endless{}, size), size, "application/octet-stream")
		refused := status == http.StatusBadRequest || status == http.StatusUnsupportedMediaType
		if !refused {
			return err
		}
		s.form = true
	}
	body, w := io.Pipe()
	form := multipart.NewWriter(w)
	go func() { _ = w.CloseWithError(writeForm(form, size)) }() // ends with post, which closes body
	_, err := s.post(ctx, body, -1, form.FormDataContentType())
	return err
}

func writeForm(form *multipart.Writer, size int64) error {
	part, err := form.CreateFormFile("file", "file")
	if err == nil {
		_, err = io.CopyN(part, endless{}, size)
	}
	if err != nil {
		return err
	}
	return form.Close()
}

func (s *server) post(ctx context.Context, body io.Reader, size int64, contentType string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.filesURL(), body)
	if err != nil {
		return 0, err
	}
	request.ContentLength = size
	request.Header.Set("Content-Type", contentType)
	answer, err := s.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, mib))
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("upload: %s: %s", answer.Status, text)
	}
	return answer.StatusCode, err
}

func (s *server) download(ctx context.Context, size int64) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.filesURL(), nil)
	if err != nil {
		return err
	}
	answer, err := s.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	n, err := io.Copy(io.Discard, answer.Body)
	if err == nil && (answer.StatusCode != http.StatusOK || n != size) {
		err = fmt.Errorf("download: %s, %d bytes of %d", answer.Status, n, size)
	}
	return err
}

// endless is a source of bytes that are not zero.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
