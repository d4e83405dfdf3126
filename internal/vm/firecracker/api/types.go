package api

// MachineConfig is the body of PUT /machine-config.
type MachineConfig struct {
	VCPUCount       int  `json:"vcpu_count"`   // 1 to 32
	MemSizeMiB      int  `json:"mem_size_mib"` // at least 1
	SMT             bool `json:"smt"`
	TrackDirtyPages bool `json:"track_dirty_pages"`
}

// BootSource is the body of PUT /boot-source. Firecracker appends the root device and, where it describes devices
// by command line, a virtio_mmio.device= for each.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"` // uncompressed ELF; opened by the call
	BootArgs        string `json:"boot_args,omitempty"`
	InitrdPath      string `json:"initrd_path,omitempty"`
}

// CacheType says whether the guest's flushes reach the disk.
type CacheType string

// The values of CacheType.
const (
	CacheUnsafe    CacheType = "Unsafe"    // flushes are not offered to the guest
	CacheWriteback CacheType = "Writeback" // a flush of the guest's is an fsync of the file
)

// Drive is the body of PUT /drives/{drive_id}: a virtio-blk device on a raw file, which the call opens.
type Drive struct {
	DriveID      string    `json:"drive_id"` // letters, digits and _
	PathOnHost   string    `json:"path_on_host"`
	IsRootDevice bool      `json:"is_root_device"`
	IsReadOnly   bool      `json:"is_read_only"`
	CacheType    CacheType `json:"cache_type,omitempty"` // empty is CacheUnsafe
}

// NetworkInterface is the body of PUT /network-interfaces/{iface_id}: a virtio-net device on a TAP, which the call opens.
type NetworkInterface struct {
	IfaceID     string `json:"iface_id"` // letters, digits and _
	HostDevName string `json:"host_dev_name"`
	GuestMAC    string `json:"guest_mac,omitempty"`
}

// Vsock is the body of PUT /vsock. The call binds the socket at UDSPath, which must not exist yet.
type Vsock struct {
	GuestCID uint32 `json:"guest_cid"` // at least 3; it need not be unique on the host
	UDSPath  string `json:"uds_path"`
}

// Entropy is the body of PUT /entropy: a virtio-rng device.
type Entropy struct{}

// Balloon is the body of PUT /balloon.
type Balloon struct {
	AmountMiB             int  `json:"amount_mib"` // at most the VM's memory
	DeflateOnOOM          bool `json:"deflate_on_oom"`
	StatsPollingIntervalS int  `json:"stats_polling_interval_s"` // 0 for no statistics, for good
}

// BalloonUpdate is the body of PATCH /balloon.
type BalloonUpdate struct {
	AmountMiB int `json:"amount_mib"`
}

// BalloonStats is the part of GET /balloon/statistics that every guest reports; 0 where it has not yet.
type BalloonStats struct {
	TargetMiB       int   `json:"target_mib"`
	ActualMiB       int   `json:"actual_mib"`
	FreeMemory      int64 `json:"free_memory"`      // bytes
	AvailableMemory int64 `json:"available_memory"` // bytes
}

// LogLevel is how much Firecracker logs.
type LogLevel string

// The levels in use; Firecracker has more.
const (
	LogError   LogLevel = "Error"
	LogWarning LogLevel = "Warning"
	LogInfo    LogLevel = "Info"
)

// Logger is the body of PUT /logger.
type Logger struct {
	LogPath   string   `json:"log_path"` // a file or FIFO; opened read-write and non-blocking by the call
	Level     LogLevel `json:"level,omitempty"`
	ShowLevel bool     `json:"show_level"`
}

// Metrics is the body of PUT /metrics. It can be given once.
type Metrics struct {
	MetricsPath string `json:"metrics_path"` // as Logger.LogPath; one JSON document a line, each minute
}

// ActionType names an action.
type ActionType string

// The actions in use.
const (
	InstanceStart ActionType = "InstanceStart" // before the boot only; returns when the guest's processors run
	FlushMetrics  ActionType = "FlushMetrics"  // after the boot only
)

// State is what Firecracker says of its microVM.
type State string

// The values of State.
const (
	NotStarted State = "Not started"
	Running    State = "Running"
	Paused     State = "Paused"
)

// VMState is the body of PATCH /vm. After the boot only.
type VMState struct {
	State VMStateName `json:"state"`
}

// VMStateName is what a microVM can be told to become.
type VMStateName string

// The values of VMStateName.
const (
	Pause  VMStateName = "Paused"
	Resume VMStateName = "Resumed"
)

// SnapshotType says what of the memory a snapshot holds.
type SnapshotType string

// The values of SnapshotType.
const (
	Full SnapshotType = "Full" // all
	Diff SnapshotType = "Diff" // what was written to since the last snapshot, at its place in a file that may hold the rest
)

// SnapshotCreate is the body of PUT /snapshot/create. The microVM must be paused. Both files are synced by the call.
type SnapshotCreate struct {
	SnapshotType SnapshotType `json:"snapshot_type"`
	SnapshotPath string       `json:"snapshot_path"`
	MemFilePath  string       `json:"mem_file_path"`
}

// SnapshotLoad is the body of PUT /snapshot/load, which must be the first call but for logger and metrics. A failed one ends
// the process.
type SnapshotLoad struct {
	SnapshotPath     string            `json:"snapshot_path"`
	MemBackend       MemBackend        `json:"mem_backend"`
	TrackDirtyPages  bool              `json:"track_dirty_pages,omitempty"` // since version 1.13
	ResumeVM         bool              `json:"resume_vm"`
	NetworkOverrides []NetworkOverride `json:"network_overrides,omitempty"` // since version 1.12
}

// MemBackend is where the memory comes from.
type MemBackend struct {
	BackendType string `json:"backend_type"` // "File", which is mapped privately, or "Uffd"
	BackendPath string `json:"backend_path"` // the file, or the socket of who gives the pages
}

// NetworkOverride gives a network interface another TAP.
type NetworkOverride struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
}

// InstanceInfo is the answer to GET /.
type InstanceInfo struct {
	AppName    string `json:"app_name"`
	ID         string `json:"id"`
	State      State  `json:"state"`
	VMMVersion string `json:"vmm_version"`
}

type action struct {
	ActionType ActionType `json:"action_type"`
}

type version struct {
	FirecrackerVersion string `json:"firecracker_version"`
}

type fault struct {
	FaultMessage string `json:"fault_message"`
}
