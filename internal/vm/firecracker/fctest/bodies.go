package fctest

import "math"

// The bodies, from the definitions in Firecracker's src/firecracker/swagger/firecracker.yaml. Widths of integers,
// and what may be null, are those of the decoder's types in src/vmm/src/vmm_config. What came after version 1.6, the
// oldest that the driver works with, is left out and therefore refused, but for what restoring uses of newer ones.

func machineConfig() schema {
	return schema{
		{name: "vcpu_count", kind: integer, required: true, max: math.MaxUint8},
		{name: "mem_size_mib", kind: integer, required: true, max: math.MaxInt64},
		{name: "smt", kind: boolean},
		{name: "track_dirty_pages", kind: boolean},
		{name: "cpu_template", kind: enum, nullable: true, values: []string{"C3", "T2", "T2S", "T2CL", "T2A", "None"}},
	}
}

func bootSource() schema {
	return schema{
		{name: "kernel_image_path", kind: text, required: true},
		{name: "initrd_path", kind: text, nullable: true},
		{name: "boot_args", kind: text, nullable: true},
	}
}

func drive() schema {
	return schema{
		{name: "drive_id", kind: text, required: true},
		{name: "partuuid", kind: text, nullable: true},
		{name: "is_root_device", kind: boolean, required: true},
		{name: "cache_type", kind: enum, values: []string{"Unsafe", "Writeback"}},
		{name: "is_read_only", kind: boolean, nullable: true},
		{name: "path_on_host", kind: text, nullable: true},
		{name: "rate_limiter", kind: nested, nullable: true, fields: rateLimiter()},
		{name: "io_engine", kind: enum, nullable: true, values: []string{"Sync", "Async"}},
		{name: "socket", kind: text, nullable: true},
	}
}

func networkInterface() schema {
	return schema{
		{name: "iface_id", kind: text, required: true},
		{name: "host_dev_name", kind: text, required: true},
		{name: "guest_mac", kind: text, nullable: true},
		{name: "rx_rate_limiter", kind: nested, nullable: true, fields: rateLimiter()},
		{name: "tx_rate_limiter", kind: nested, nullable: true, fields: rateLimiter()},
	}
}

func vsockDevice() schema {
	return schema{
		{name: "vsock_id", kind: text, nullable: true},
		{name: "guest_cid", kind: integer, required: true, min: 3, max: math.MaxUint32},
		{name: "uds_path", kind: text, required: true},
	}
}

func entropyDevice() schema {
	return schema{{name: "rate_limiter", kind: nested, nullable: true, fields: rateLimiter()}}
}

func balloonDevice() schema {
	return schema{
		{name: "amount_mib", kind: integer, required: true, max: math.MaxUint32},
		{name: "deflate_on_oom", kind: boolean, required: true},
		{name: "stats_polling_interval_s", kind: integer, max: math.MaxUint16},
	}
}

func balloonUpdate() schema {
	return schema{{name: "amount_mib", kind: integer, required: true, max: math.MaxUint32}}
}

func logger() schema {
	levels := []string{"Error", "Warning", "Info", "Debug"}
	return schema{
		{name: "log_path", kind: text, nullable: true},
		{name: "level", kind: enum, nullable: true, values: levels, anyCase: true},
		{name: "show_level", kind: boolean, nullable: true},
		{name: "show_log_origin", kind: boolean, nullable: true},
	}
}

func metrics() schema {
	return schema{{name: "metrics_path", kind: text, required: true}}
}

func action() schema {
	values := []string{"FlushMetrics", "InstanceStart", "SendCtrlAltDel"}
	return schema{{name: "action_type", kind: enum, required: true, values: values}}
}

func vmState() schema {
	return schema{{name: "state", kind: enum, required: true, values: []string{"Paused", "Resumed"}}}
}

func snapshotCreate() schema {
	return schema{
		{name: "snapshot_type", kind: enum, values: []string{"Full", "Diff"}},
		{name: "snapshot_path", kind: text, required: true},
		{name: "mem_file_path", kind: text, required: true},
	}
}

func snapshotLoad() schema {
	backend := schema{
		{name: "backend_type", kind: enum, required: true, values: []string{"File", "Uffd"}},
		{name: "backend_path", kind: text, required: true},
	}
	override := schema{
		{name: "iface_id", kind: text, required: true},
		{name: "host_dev_name", kind: text, required: true},
	}
	return schema{
		{name: "snapshot_path", kind: text, required: true},
		{name: "mem_backend", kind: nested, nullable: true, fields: backend},
		{name: "track_dirty_pages", kind: boolean},
		{name: "resume_vm", kind: boolean},
		{name: "network_overrides", kind: list, fields: override},
	}
}

func rateLimiter() schema {
	bucket := schema{
		{name: "size", kind: integer, required: true, max: math.MaxInt64},
		{name: "one_time_burst", kind: integer, nullable: true, max: math.MaxInt64},
		{name: "refill_time", kind: integer, required: true, max: math.MaxInt64},
	}
	return schema{
		{name: "bandwidth", kind: nested, nullable: true, fields: bucket},
		{name: "ops", kind: nested, nullable: true, fields: bucket},
	}
}
