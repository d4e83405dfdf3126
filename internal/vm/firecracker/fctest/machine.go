package fctest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/wrenn-sandbox/wrenn/internal/vm/pager/pagertest"
)

// maxCmdline is CMDLINE_MAX_SIZE of Firecracker's src/vmm/src/arch/x86_64/layout.rs, less the final NUL.
const maxCmdline = 2047

// maxMachineVCPUs is MAX_SUPPORTED_VCPUS of Firecracker's src/vmm/src/vmm_config/machine_config.rs.
const maxMachineVCPUs = 32

// machine is the microVM of one process: what was configured, and whether it runs. Its methods are what the calls do;
// one runs at a time.
type machine struct {
	boot func(*machine) error // starts the guest

	mu        sync.Mutex
	running   bool
	vcpus     int
	memoryMiB int
	kernel    string
	cmdline   string
	drives    []disk
	nics      []nic
	vsock     *vsock
	balloon   body // nil without one
	entropy   bool
	log       *os.File // nil for standard output
	metrics   *os.File

	configured bool // no snapshot can be loaded any more
	failed     bool // loading one has: the process ends
	paused     bool
	gate       *gate             // what the guest passes through
	save       func() []byte     // the guest's memory
	saved      []byte            // what it was restored from
	memory     *pagertest.Memory // where that came from a pager
}

type disk struct {
	id   string
	root bool
	file *os.File
}

type nic struct {
	id, mac string
	tap     *os.File
}

func newMachine(boot func(*machine) error) *machine {
	return &machine{boot: boot, vcpus: 1, memoryMiB: 128, gate: newGate(true), save: func() []byte { return nil }} // the defaults of the description
}

// close frees what the machine opened. Sockets stay in the file system, as Firecracker's do.
func (m *machine) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gate.set(true)
	for _, d := range m.drives {
		d.file.Close()
	}
	for _, n := range m.nics {
		n.tap.Close()
	}
	if m.vsock != nil {
		m.vsock.close()
	}
	if m.memory != nil {
		m.memory.Close()
	}
	for _, f := range []*os.File{m.log, m.metrics} {
		if f != nil {
			f.Close()
		}
	}
}

func (m *machine) putMachineConfig(b body) error {
	vcpus, memory := b.number("vcpu_count"), b.number("mem_size_mib")
	switch {
	case vcpus < 1 || vcpus > maxMachineVCPUs || b.flag("smt") && vcpus > 1 && vcpus%2 == 1:
		return fmt.Errorf("%d vCPUs: must be 1 to %d, and 1 or even with SMT", vcpus, maxMachineVCPUs)
	case memory == 0:
		return errors.New("the memory size is 0")
	case m.balloon != nil && memory < m.balloon.number("amount_mib"):
		return errors.New("the memory size is smaller than the balloon")
	}
	m.vcpus, m.memoryMiB = vcpus, memory
	return nil
}

func (m *machine) putBootSource(b body) error {
	for _, name := range []string{"kernel_image_path", "initrd_path"} {
		if !b.has(name) {
			continue
		}
		f, err := os.Open(b.text(name))
		if err != nil {
			return fmt.Errorf("cannot open %s: %w", name, err)
		}
		f.Close()
	}
	args := strings.TrimSpace(b.text("boot_args"))
	if len(args) > maxCmdline {
		return fmt.Errorf("a kernel command line of %d bytes is longer than %d", len(args), maxCmdline)
	}
	if strings.ContainsFunc(args, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errors.New("the kernel command line has characters that are not printable ASCII")
	}
	m.kernel, m.cmdline = b.text("kernel_image_path"), args
	return nil
}

func (m *machine) putDrive(b body) error {
	if b.has("socket") || !b.has("path_on_host") || !b.has("is_read_only") {
		return errors.New("a drive needs path_on_host and is_read_only, and no socket: vhost-user is not served here")
	}
	at := m.driveAt(b.text("drive_id"))
	for i, d := range m.drives {
		if d.root && b.flag("is_root_device") && i != at {
			return errors.New("a root device was added already")
		}
	}
	mode := os.O_RDWR
	if b.flag("is_read_only") {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(b.text("path_on_host"), mode, 0)
	if err != nil {
		return fmt.Errorf("cannot open the block device: %w", err)
	}
	m.setDrive(at, disk{id: b.text("drive_id"), root: b.flag("is_root_device"), file: f})
	return nil
}

func (m *machine) driveAt(id string) int {
	for i, d := range m.drives {
		if d.id == id {
			return i
		}
	}
	return len(m.drives)
}

func (m *machine) setDrive(at int, d disk) {
	if at == len(m.drives) {
		m.drives = append(m.drives, d)
		return
	}
	m.drives[at].file.Close()
	m.drives[at] = d
}

func (m *machine) putNetworkInterface(b body) error {
	id, mac := b.text("iface_id"), ""
	if b.has("guest_mac") {
		parsed, err := net.ParseMAC(b.text("guest_mac"))
		if err != nil || len(parsed) != 6 || !strings.EqualFold(parsed.String(), b.text("guest_mac")) {
			return fmt.Errorf("invalid MAC address %q", b.text("guest_mac"))
		}
		mac = parsed.String()
	}
	var others []nic
	for _, n := range m.nics {
		switch {
		case n.id == id:
			defer n.tap.Close()
		case n.mac == mac && mac != "":
			return fmt.Errorf("the MAC address is already in use: %s", mac)
		default:
			others = append(others, n)
		}
	}
	tap, err := openTAP(b.text("host_dev_name"))
	if err != nil {
		return fmt.Errorf("cannot open the tap device: %w", err)
	}
	m.nics = append(others, nic{id: id, mac: mac, tap: tap})
	return nil
}

func (m *machine) putVsock(b body) error {
	if m.vsock != nil {
		m.vsock.close()
		if err := os.Remove(m.vsock.path); err != nil {
			return fmt.Errorf("cannot replace the vsock's socket: %w", err)
		}
		m.vsock = nil
	}
	v, err := listenVsock(b.text("uds_path"), m.gate)
	if err != nil {
		return fmt.Errorf("cannot create the vsock's socket: %w", err)
	}
	m.vsock = v
	return nil
}

func (m *machine) putEntropy(body) error {
	m.entropy = true
	return nil
}

func (m *machine) putBalloon(b body) error {
	if b.number("amount_mib") > m.memoryMiB {
		return errors.New("the balloon is larger than the memory")
	}
	m.balloon = b
	return nil
}

func (m *machine) patchBalloon(b body) error {
	switch {
	case m.balloon == nil:
		return errors.New("there is no balloon device")
	case b.number("amount_mib") > m.memoryMiB:
		return errors.New("the balloon is larger than the memory")
	}
	m.balloon["amount_mib"] = b["amount_mib"]
	return nil
}

func (m *machine) putLogger(b body) error {
	if !b.has("log_path") {
		return nil
	}
	f, err := openOutput(b.text("log_path"))
	if err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	if m.log != nil {
		m.log.Close()
	}
	m.log = f
	return nil
}

func (m *machine) putMetrics(b body) error {
	if m.metrics != nil {
		return errors.New("the metrics system was initialized already")
	}
	f, err := openOutput(b.text("metrics_path"))
	if err != nil {
		return fmt.Errorf("cannot open the metrics: %w", err)
	}
	m.metrics = f
	return nil
}

// start is the action InstanceStart. A failed one leaves the machine as it was.
func (m *machine) start() error {
	if m.kernel == "" {
		return errors.New("cannot start a microVM without a kernel")
	}
	if err := checkELF(m.kernel); err != nil {
		return fmt.Errorf("cannot load the kernel: %w", err)
	}
	if err := m.boot(m); err != nil {
		return err
	}
	m.running = true
	return nil
}
