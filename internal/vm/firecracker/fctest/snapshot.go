package fctest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/wrenn-sandbox/wrenn/internal/vm/pager/pagertest"
)

// gate lets the guest through while its microVM is not paused.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the guest may go on
}

func newGate(open bool) *gate {
	g := &gate{open: make(chan struct{})}
	if open {
		close(g.open)
	}
	return g
}

func (g *gate) wait() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		if !open {
			g.open = make(chan struct{})
		}
	default:
		if open {
			close(g.open)
		}
	}
}

// state is what a state file holds. The real one's format is Firecracker's own business.
type state struct {
	Version         string
	VCPUs, MemoryMB int
	Cmdline         string
	Drives          []savedDrive
	NICs            []savedNIC
	Vsock           string
	Balloon         body
	Entropy         bool
}

type savedDrive struct {
	ID, Path string
	Root     bool
}

type savedNIC struct{ ID, MAC, TAP string }

// errNotPaused is for calls that want a paused microVM.
var errNotPaused = errors.New("cannot create snapshot: the microVM is not paused")

func (m *machine) patchVM(b body) error {
	m.paused = b.text("state") == "Paused"
	m.gate.set(!m.paused)
	return nil
}

func (m *machine) createSnapshot(b body) error {
	if !m.paused {
		return errNotPaused
	}
	if err := m.writeState(b.text("snapshot_path")); err != nil {
		return fmt.Errorf("cannot write the state: %w", err)
	}
	if err := m.writeMemory(b.text("mem_file_path")); err != nil {
		return fmt.Errorf("cannot write the memory: %w", err)
	}
	return nil
}

func (m *machine) writeState(path string) error {
	s := state{Version: Version, VCPUs: m.vcpus, MemoryMB: m.memoryMiB, Cmdline: m.cmdline, Balloon: m.balloon, Entropy: m.entropy}
	for _, d := range m.drives {
		s.Drives = append(s.Drives, savedDrive{d.id, d.file.Name(), d.root})
	}
	for _, n := range m.nics {
		s.NICs = append(s.NICs, savedNIC{n.id, n.mac, n.tap.Name()})
	}
	if m.vsock != nil {
		s.Vsock = m.vsock.path
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(path, binary.LittleEndian.AppendUint32(text, crc32.ChecksumIEEE(text)), 0o600)
}

// writeMemory writes what the guest says it has in memory. As in Firecracker, a file of the right size is written over, not emptied.
func (m *machine) writeMemory(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(m.memoryMiB) << 20); err != nil {
		return err
	}
	saved := m.save()
	_, err = f.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(saved))), saved...))
	return err
}

// loadSnapshot ends the process when it fails, as Firecracker's does.
func (m *machine) loadSnapshot(b body) error {
	if m.configured {
		return errors.New("loading a microVM snapshot is not allowed after configuring boot-specific resources")
	}
	if !b.has("mem_backend") {
		return errors.New("missing field: either `mem_backend` or `mem_file_path` is required")
	}
	err := m.load(b)
	m.failed = err != nil
	return err
}

func (m *machine) load(b body) error {
	s, err := readState(b.text("snapshot_path"))
	if err != nil {
		return fmt.Errorf("load snapshot: %w", err)
	}
	backend, _ := b["mem_backend"].(body)
	saved, err := m.takeMemory(backend, int64(s.MemoryMB)<<20)
	if err != nil {
		return fmt.Errorf("load snapshot: cannot map the memory: %w", err)
	}
	if err := m.rebuild(s, b); err != nil {
		return fmt.Errorf("load snapshot: %w", err)
	}
	m.saved, m.paused, m.running = saved, !b.flag("resume_vm"), true
	m.gate.set(!m.paused)
	return m.boot(m)
}

func readState(path string) (s state, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if len(text) < 4 || crc32.ChecksumIEEE(text[:len(text)-4]) != binary.LittleEndian.Uint32(text[len(text)-4:]) {
		return s, errors.New("the state's checksum is wrong")
	}
	err = json.Unmarshal(text[:len(text)-4], &s)
	if err == nil && s.Version != Version {
		err = fmt.Errorf("the state is of version %s", s.Version)
	}
	return s, err
}

// takeMemory reads the memory from a file, or has it come page by page.
func (m *machine) takeMemory(backend body, size int64) (saved []byte, err error) {
	path := backend.text("backend_path")
	if backend.text("backend_type") == "File" {
		return readMemory(path, size)
	}
	if m.memory, err = pagertest.Map(path, int(size)); err != nil {
		return nil, err
	}
	memory := m.memory.Regions[0]
	length := binary.LittleEndian.Uint64(memory)
	if length > uint64(len(memory)-8) {
		return nil, fmt.Errorf("the memory has %d bytes", length)
	}
	return bytes.Clone(memory[8:][:length]), nil
}

func readMemory(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != size {
		return nil, fmt.Errorf("the file has %d bytes, not %d", info.Size(), size)
	}
	length := make([]byte, 8)
	if _, err := io.ReadFull(f, length); err != nil {
		return nil, err
	}
	saved := make([]byte, binary.LittleEndian.Uint64(length))
	_, err = io.ReadFull(f, saved)
	return saved, err
}

// rebuild opens what the microVM had open, at the same paths.
func (m *machine) rebuild(s state, b body) error {
	m.vcpus, m.memoryMiB, m.cmdline, m.balloon, m.entropy = s.VCPUs, s.MemoryMB, s.Cmdline, s.Balloon, s.Entropy
	for _, d := range s.Drives {
		drive := body{"drive_id": d.ID, "is_root_device": d.Root, "is_read_only": false, "path_on_host": d.Path}
		if err := m.putDrive(drive); err != nil {
			return err
		}
	}
	for _, n := range s.NICs {
		nic := body{"iface_id": n.ID, "host_dev_name": tapOf(n, b), "guest_mac": n.MAC}
		if err := m.putNetworkInterface(nic); err != nil {
			return err
		}
	}
	if s.Vsock == "" {
		return nil
	}
	return m.putVsock(body{"uds_path": s.Vsock})
}

// tapOf is the TAP that a call to load a snapshot gives a network interface.
func tapOf(n savedNIC, load body) string {
	overrides, _ := load["network_overrides"].([]body)
	for _, o := range overrides {
		if o.text("iface_id") == n.ID {
			return o.text("host_dev_name")
		}
	}
	return n.TAP
}
