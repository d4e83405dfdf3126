package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Names of the sockets in a VM's folder.
const (
	qmpSocket     = "qmp.sock"
	consoleSocket = "console.sock"
	envdSocket    = "envd.sock"
)

// sockets are the agent's connections to one QEMU.
type sockets struct {
	qmp, console, envd net.Conn
	files              []*os.File // the listening ends, until QEMU has inherited them: QMP, console, envd
}

// listen makes the sockets of a QEMU that is about to start, and connects to each of them but the console, for which QEMU waits.
func listen(ctx context.Context, dir string) (*sockets, error) {
	s := &sockets{}
	for _, name := range []string{qmpSocket, consoleSocket, envdSocket} { // in the order of their descriptors
		if err := s.listen(filepath.Join(dir, name)); err != nil {
			s.close()
			return nil, err
		}
	}
	// They never block: each connection waits in the listener's queue.
	var err error
	if s.qmp, err = dial(ctx, filepath.Join(dir, qmpSocket)); err == nil {
		s.envd, err = dial(ctx, filepath.Join(dir, envdSocket))
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("connect to socket: %w", err)
	}
	return s, nil
}

// openConsole connects to the console.
func (s *sockets) openConsole(ctx context.Context, dir string) (err error) {
	if s.console, err = dial(ctx, filepath.Join(dir, consoleSocket)); err != nil {
		return fmt.Errorf("connect to the console: %w", err)
	}
	return nil
}

func (s *sockets) listen(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an earlier start
		return fmt.Errorf("remove socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	s.files = append(s.files, file)
	return nil
}

// connect connects to a QEMU that runs. Its envd socket is left to the session, which connects by itself.
func connect(ctx context.Context, dir string) (*sockets, error) {
	s := &sockets{}
	var err error
	if s.qmp, err = dial(ctx, filepath.Join(dir, qmpSocket)); err != nil {
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	if err := s.openConsole(ctx, dir); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// closeFiles closes the listening ends, which QEMU has its own copies of.
func (s *sockets) closeFiles() {
	closeFiles(s.files)
	s.files = nil
}

func closeFiles(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

func (s *sockets) close() {
	s.closeFiles()
	for _, conn := range []net.Conn{s.qmp, s.console, s.envd} {
		if conn != nil {
			conn.Close()
		}
	}
}
