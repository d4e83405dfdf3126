// Package s3test runs a real S3 server, versitygw on loopback, for tests and measurements.
package s3test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// The keys to servers that only this machine reaches.
const (
	accessKey = "wrenn-test"
	secretKey = "wrenn-test-secret"
	bucket    = "wrenn"
)

// startTime bounds a start, also on a machine that is busy.
const startTime = time.Minute

// Server is one server with one bucket, whose objects are files of a folder.
type Server struct {
	program, dir, address string
	process               *child.Process
}

// ForTest returns a server that ends with t. Where versitygw is not installed, t is skipped or fails as testlane says.
func ForTest(t testing.TB) *Server {
	t.Helper()
	if program() == "" {
		testlane.Missing(t, "versitygw is not there: `make deps-test` builds it")
	}
	s, err := Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// Start starts a server whose bucket lies in dir.
func Start(dir string) (*Server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &Server{program: program(), dir: dir, address: address}
	if s.program == "" {
		return nil, errors.New("versitygw is not there: `make deps-test` builds it")
	}
	if err := os.MkdirAll(s.Folder(), 0o700); err != nil {
		return nil, err
	}
	return s, s.Restart()
}

// Folder is where the objects are.
func (s *Server) Folder() string { return filepath.Join(s.dir, bucket) }

// Options lead to the server's bucket.
func (s *Server) Options() s3.Options {
	return s3.Options{Endpoint: s.address, Plain: true, Region: "us-east-1", Bucket: bucket, AccessKey: accessKey, SecretKey: secretKey}
}

// Kill ends the server with SIGKILL, if it runs.
func (s *Server) Kill() {
	s.process.Stop(context.Background(), child.Step{Signal: syscall.SIGKILL, Grace: startTime})
}

// Restart starts the server again where it was.
func (s *Server) Restart() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.process, err = child.Start(child.Spec{
		Path: s.program, Args: []string{"--access", accessKey, "--secret", secretKey, "--port", s.address, "--quiet", "posix", "--nometa", s.dir},
		Env: []string{"HOME=" + s.dir}, Dir: s.dir, DeathSignal: syscall.SIGKILL, Stdout: log, Stderr: log,
	})
	if err != nil {
		return err
	}
	if err := s.process.WaitReady(ctx, s.answers); err != nil {
		s.Kill()
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("start versitygw: %w; its log: %s", err, text)
	}
	return nil
}

func (s *Server) answers(ctx context.Context) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// freeAddress returns one on loopback that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// program finds versitygw on the PATH or where scripts/tool.sh builds it; empty where it is nowhere.
func program() string {
	if path, err := exec.LookPath("versitygw"); err == nil {
		return path
	}
	cache := os.Getenv("WRENN_CACHE")
	if cache == "" {
		cache = "/var/cache/wrenn"
	}
	built, _ := filepath.Glob(filepath.Join(cache, "tools", "versitygw@*", "versitygw")) // fails only on a bad pattern
	if len(built) == 0 {
		return ""
	}
	return built[len(built)-1]
}
