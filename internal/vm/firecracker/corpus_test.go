package firecracker_test

import "strings"

// verdict is what becomes of a call.
type verdict int

const (
	accepted verdict = iota
	refused
	// stricter: the strict server refuses what Firecracker accepts, as the published description does, or because
	// Firecracker 1.6 would.
	stricter
)

type step struct {
	method, path, body string
	want               verdict
	keys               []string // which an answer must have
}

// sequence is a list of calls to one fresh process.
type sequence struct {
	name  string
	root  bool // it makes a TAP
	boots bool // it starts a guest
	steps []step
}

// put returns steps for several bodies of one path.
func put(want verdict, path string, bodies ...string) (steps []step) {
	for _, b := range bodies {
		steps = append(steps, step{method: "PUT", path: path, body: b, want: want})
	}
	return steps
}

func get(want verdict, path string, keys ...string) []step {
	return []step{{method: "GET", path: path, want: want, keys: keys}}
}

func other(want verdict, method, path, body string) []step {
	return []step{{method: method, path: path, body: body, want: want}}
}

func seq(name string, parts ...[]step) sequence {
	s := sequence{name: name}
	for _, p := range parts {
		s.steps = append(s.steps, p...)
	}
	return s
}

// corpus is what the strict server and a real Firecracker must judge alike. {dir}, {kernel} and {disk} are paths.
func corpus() []sequence {
	return []sequence{
		machineConfigs(), bootSources(), drives(), secondRoot(), networkInterfaces(), vsocks(), balloons(),
		loggers(), metricsOnce(), entropies(), beforeTheBoot(), requests(), afterTheBoot(),
		snapshotBeforeTheBoot(), snapshotAfterConfiguring(),
	}
}

func machineConfigs() sequence {
	const path = "/machine-config"
	return seq("machine-config",
		put(accepted, path, `{"vcpu_count":1,"mem_size_mib":128}`, `{"vcpu_count":32,"mem_size_mib":1}`,
			`{"vcpu_count":2,"mem_size_mib":256,"smt":true}`, `{"vcpu_count":1,"mem_size_mib":256,"smt":true}`,
			`{"vcpu_count":3,"mem_size_mib":256,"smt":false,"track_dirty_pages":true}`,
			`{"vcpu_count":1,"mem_size_mib":128,"cpu_template":null}`, ` {"mem_size_mib" : 128 , "vcpu_count" : 1 } `),
		put(refused, path, `{"vcpu_count":1}`, `{"mem_size_mib":128}`, `{}`, `null`, `"x"`, `1`, `true`,
			`{"vcpu_count":0,"mem_size_mib":128}`, `{"vcpu_count":33,"mem_size_mib":128}`, `{"vcpu_count":256,"mem_size_mib":128}`,
			`{"vcpu_count":-1,"mem_size_mib":128}`, `{"vcpu_count":1.0,"mem_size_mib":128}`, `{"vcpu_count":1e0,"mem_size_mib":128}`,
			`{"vcpu_count":"1","mem_size_mib":128}`, `{"vcpu_count":null,"mem_size_mib":128}`, `{"vcpu_count":1,"mem_size_mib":0}`,
			`{"vcpu_count":1,"mem_size_mib":"128"}`, `{"vcpu_count":1,"mem_size_mib":128,"smt":null}`,
			`{"vcpu_count":1,"mem_size_mib":128,"smt":1}`, `{"vcpu_count":3,"mem_size_mib":128,"smt":true}`,
			`{"vcpu_count":1,"mem_size_mib":128,"colour":"red"}`, `{"vcpu_count":1,"vcpu_count":1,"mem_size_mib":128}`,
			`{"Vcpu_count":1,"mem_size_mib":128}`, `{"vcpu_count":1,"mem_size_mib":128,"cpu_template":"Z80"}`,
			`{"vcpu_count":1,"mem_size_mib":128`, `{"vcpu_count":1,"mem_size_mib":128}}`, `{"vcpu_count":1,"mem_size_mib":128} x`, `{`),
		put(stricter, path, `[1,128]`, `{"vcpu_count":1,"mem_size_mib":128,"huge_pages":"None"}`),
		put(accepted, path, `{"vcpu_count":1,"mem_size_mib":128}`),
	)
}

func bootSources() sequence {
	const path = "/boot-source"
	args := func(n int) string {
		return `{"kernel_image_path":"{kernel}","boot_args":"` + strings.Repeat("a", n) + `"}`
	}
	return seq("boot-source",
		put(accepted, path, `{"kernel_image_path":"{kernel}"}`, `{"kernel_image_path":"{kernel}","boot_args":"a=b c"}`,
			`{"kernel_image_path":"{kernel}","boot_args":null,"initrd_path":null}`, `{"kernel_image_path":"{disk}"}`,
			`{"kernel_image_path":"{kernel}","initrd_path":"{disk}"}`, args(2047)),
		put(refused, path, `{}`, `{"boot_args":"a"}`, `{"kernel_image_path":"{dir}/none"}`, `{"kernel_image_path":null}`,
			`{"kernel_image_path":7}`, `{"kernel_image_path":"{kernel}","initrd_path":"{dir}/none"}`, args(2048),
			`{"kernel_image_path":"{kernel}","boot_args":["a"]}`, `{"kernel_image_path":"{kernel}","args":"a"}`),
		put(stricter, path, `{"kernel_image_path":"{kernel}","boot_args":"gr\u00fcn"}`),
	)
}

func drives() sequence {
	const path = "/drives/d_1"
	more := func(text string) string {
		return `{"drive_id":"d_1","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"` + text + `}`
	}
	return seq("drives",
		put(accepted, path, more(``), more(`,"cache_type":"Writeback"`), more(`,"cache_type":"Unsafe","io_engine":null`),
			more(`,"io_engine":"Sync","partuuid":"0eaa91a0-01"`), more(`,"rate_limiter":null`), more(`,"rate_limiter":{}`),
			more(`,"rate_limiter":{"ops":{"size":10,"refill_time":100},"bandwidth":null}`),
			`{"drive_id":"d_1","is_root_device":false,"is_read_only":true,"path_on_host":"{disk}"}`),
		put(refused, path, more(`,"cache_type":"None"`), more(`,"cache_type":null`), more(`,"io_engine":"Fast"`),
			more(`,"rate_limiter":{"net":{}}`), more(`,"rate_limiter":{"ops":{"size":10}}`), more(`,"size":1`),
			more(`,"socket":"{dir}/s"`), more(`,"drive_id":"d_1"`),
			`{"drive_id":"d_1","is_read_only":false,"path_on_host":"{disk}"}`,
			`{"drive_id":"d_1","is_root_device":false,"is_read_only":false}`,
			`{"drive_id":"d_1","is_root_device":false,"is_read_only":false,"path_on_host":"{dir}/none"}`,
			`{"drive_id":"d_1","is_root_device":false,"is_read_only":false,"path_on_host":"{dir}"}`,
			`{"drive_id":"d_2","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"}`,
			`{"drive_id":"d_1","is_root_device":"no","is_read_only":false,"path_on_host":"{disk}"}`),
		put(stricter, path, `{"drive_id":"d_1","is_root_device":false,"path_on_host":"{disk}"}`,
			more(`,"rate_limiter":{"ops":{"size":10,"refill_time":100,"x":1}}`)),
		put(refused, "/drives/d-1", `{"drive_id":"d-1","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"}`),
		put(refused, "/drives/", `{"drive_id":"","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"}`),
		put(refused, "/drives", `{"drive_id":"","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"}`),
		put(accepted, "/drives/9", `{"drive_id":"9","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"}`),
	)
}

func secondRoot() sequence {
	root := func(id string) string {
		return `{"drive_id":"` + id + `","is_root_device":true,"is_read_only":false,"path_on_host":"{disk}"}`
	}
	return seq("two root devices",
		put(accepted, "/drives/a", root("a")),
		put(refused, "/drives/b", root("b")),
		put(accepted, "/drives/a", root("a"), strings.Replace(root("a"), "true", "false", 1)),
		put(accepted, "/drives/b", root("b")),
	)
}

func networkInterfaces() sequence {
	nic := func(id, tap, more string) string {
		return `{"iface_id":"` + id + `","host_dev_name":"` + tap + `"` + more + `}`
	}
	s := seq("network-interfaces",
		put(accepted, "/network-interfaces/eth0", nic("eth0", "corpus0", `,"guest_mac":"02:00:00:00:00:0a"`),
			nic("eth0", "corpus1", `,"guest_mac":"02:00:00:00:00:0A"`), nic("eth0", "corpus2", ``), nic("eth0", "corpus3", `,"guest_mac":null`),
			nic("eth0", "corpus4", `,"guest_mac":"02:00:00:00:00:0a","rx_rate_limiter":{},"tx_rate_limiter":null`)),
		put(refused, "/network-interfaces/eth1", nic("eth1", "corpus5", `,"guest_mac":"02:00:00:00:00:0a"`),
			nic("eth1", "corpus5", `,"guest_mac":"02:00:00:00:00"`), nic("eth1", "corpus5", `,"guest_mac":"02-00-00-00-00-01"`),
			nic("eth1", "corpus5", `,"guest_mac":"0200.0000.0001"`), nic("eth1", "corpus5", `,"guest_mac":"2:0:0:0:0:1"`),
			nic("eth1", "corpus5", `,"guest_mac":"02:00:00:00:00:0g"`), nic("eth1", "corpus5", `,"guest_mac":""`),
			nic("eth1", "a-name-of-16-bytes", ``), nic("eth1", "corpus4", ``), nic("eth2", "corpus5", ``),
			nic("eth1", "corpus5", `,"allow_mmds_requests":true`), `{"iface_id":"eth1"}`, `{"host_dev_name":"corpus5"}`),
		put(refused, "/network-interfaces/eth-1", nic("eth-1", "corpus5", ``)),
		put(refused, "/network-interfaces", nic("", "corpus5", ``)),
		put(stricter, "/network-interfaces/eth1", nic("eth1", "corpus6", `,"mtu":1400`)),
	)
	s.root = true
	return s
}

func vsocks() sequence {
	const path = "/vsock"
	return seq("vsock",
		put(accepted, path, `{"guest_cid":3,"uds_path":"{dir}/v1"}`, `{"guest_cid":4,"uds_path":"{dir}/v2"}`,
			`{"guest_cid":4294967295,"uds_path":"{dir}/v2","vsock_id":"v"}`),
		put(refused, path, `{"guest_cid":-1,"uds_path":"{dir}/v3"}`, `{"guest_cid":4294967296,"uds_path":"{dir}/v3"}`,
			`{"guest_cid":3}`, `{"uds_path":"{dir}/v3"}`, `{"guest_cid":3,"uds_path":"{dir}/v3","port":1}`,
			`{"guest_cid":"3","uds_path":"{dir}/v3"}`, `{"guest_cid":3,"uds_path":"{dir}/none/v"}`),
		put(accepted, path, `{"guest_cid":3,"uds_path":"{dir}/v4"}`),
		put(refused, path, `{"guest_cid":3,"uds_path":"{disk}"}`),
		put(stricter, path, `{"guest_cid":2,"uds_path":"{dir}/v5"}`),
	)
}

func balloons() sequence {
	const path = "/balloon"
	return seq("balloon",
		get(refused, "/balloon"),
		put(accepted, path, `{"amount_mib":0,"deflate_on_oom":true}`, `{"amount_mib":128,"deflate_on_oom":false}`,
			`{"amount_mib":64,"deflate_on_oom":true,"stats_polling_interval_s":65535}`),
		put(refused, path, `{"amount_mib":0}`, `{"deflate_on_oom":true}`, `{"amount_mib":129,"deflate_on_oom":true}`,
			`{"amount_mib":-1,"deflate_on_oom":true}`, `{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":65536}`,
			`{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":null}`, `{"amount_mib":0,"deflate_on_oom":true,"x":0}`,
			`{"amount_mib":0,"deflate_on_oom":0}`),
		put(refused, "/machine-config", `{"vcpu_count":1,"mem_size_mib":63}`),
		put(accepted, "/machine-config", `{"vcpu_count":1,"mem_size_mib":64}`),
		other(refused, "PATCH", path, `{"amount_mib":1}`),
		get(refused, "/balloon/statistics"),
	)
}

func loggers() sequence {
	const path = "/logger"
	return seq("logger",
		put(accepted, path, `{"log_path":"{dir}/l1","level":"Warning","show_level":true}`, `{"log_path":"{dir}/l2","level":"wARNING"}`,
			`{}`, `{"level":"Error"}`, `{"log_path":null,"show_level":null,"show_log_origin":false}`, `{"log_path":"{dir}/l1"}`),
		put(refused, path, `{"level":"Loud"}`, `{"level":3}`, `{"log_path":"{dir}/none/l"}`, `{"log_path":"{dir}"}`,
			`{"show_level":"yes"}`, `{"path":"{dir}/l3"}`, `null`),
		put(stricter, path, `{"level":"Off"}`),
	)
}

func metricsOnce() sequence {
	const path = "/metrics"
	return seq("metrics",
		put(refused, path, `{}`, `{"metrics_path":null}`, `{"metrics_path":"{dir}/none/m"}`, `{"metrics_path":5}`),
		put(accepted, path, `{"metrics_path":"{dir}/m1"}`),
		put(refused, path, `{"metrics_path":"{dir}/m1"}`, `{"metrics_path":"{dir}/m2"}`),
	)
}

func entropies() sequence {
	const path = "/entropy"
	return seq("entropy",
		put(accepted, path, `{}`, `{"rate_limiter":null}`, `{"rate_limiter":{"bandwidth":{"size":1000,"refill_time":100,"one_time_burst":null}}}`),
		put(refused, path, `null`, `{"rate_limiter":5}`, `{"rate_limiter":{"x":null}}`, `{"source":"/dev/random"}`,
			`{"rate_limiter":{"ops":{"size":-1,"refill_time":1}}}`),
	)
}

func beforeTheBoot() sequence {
	const path = "/actions"
	return seq("before the boot",
		put(refused, path, `{"action_type":"InstanceStart"}`, `{"action_type":"FlushMetrics"}`, `{"action_type":"SendCtrlAltDel"}`,
			`{"action_type":"Halt"}`, `{"action_type":"instanceStart"}`, `{}`, `{"action_type":"InstanceStart","payload":"x"}`, `{"action_type":null}`),
		put(accepted, "/boot-source", `{"kernel_image_path":"{disk}"}`),
		put(refused, path, `{"action_type":"InstanceStart"}`), // the disk is no kernel
		get(accepted, "/", "app_name", "id", "state", "vmm_version"),
	)
}

func requests() sequence {
	long := `{"kernel_image_path":"{kernel}","boot_args":"` + strings.Repeat("a", 60_000) + `"}`
	return seq("requests",
		get(accepted, "/", "app_name", "id", "state", "vmm_version"),
		get(accepted, "/version", "firecracker_version"),
		get(refused, "/nothing"),
		get(refused, "/actions"),
		put(refused, "/machine-config", ``),
		put(refused, "/nothing", `{}`),
		put(refused, "/", `{}`),
		put(refused, "/version", `{}`),
		other(refused, "GET", "/", `{}`),
		other(refused, "PATCH", "/actions", `{"action_type":"InstanceStart"}`),
		other(refused, "PATCH", "/vm", `{"state":"Paused"}`),
		other(refused, "POST", "/actions", `{"action_type":"InstanceStart"}`),
		other(stricter, "PATCH", "/machine-config", `{"vcpu_count":2}`),
		get(stricter, "/machine-config"),
		put(refused, "/boot-source", long),
	)
}

func snapshotBeforeTheBoot() sequence {
	return seq("snapshot before the boot",
		other(refused, "PATCH", "/vm", `{"state":"Paused"}`),
		put(refused, "/snapshot/create", `{"snapshot_path":"{dir}/state","mem_file_path":"{dir}/memory"}`),
		put(refused, "/snapshot/load", `{}`, `{"snapshot_path":"{dir}/state"}`, `{"snapshot_path":1,"mem_backend":null}`,
			`{"snapshot_path":"{dir}/state","mem_backend":{"backend_type":"Tape","backend_path":"x"}}`,
			`{"snapshot_path":"{dir}/state","mem_backend":{"backend_type":"File"}}`,
			`{"snapshot_path":"{dir}/state","mem_backend":{"backend_type":"File","backend_path":"x"},"network_overrides":{}}`,
			`{"snapshot_path":"{dir}/state","mem_backend":{"backend_type":"File","backend_path":"x"},"network_overrides":[{"iface_id":"eth0"}]}`,
			`{"snapshot_path":"{dir}/state","mem_backend":{"backend_type":"File","backend_path":"x"},"colour":"red"}`,
			`{"snapshot_path":"{dir}/state","mem_backend":{"backend_type":"File","backend_path":"{dir}/memory"},"resume_vm":false}`),
	)
}

func snapshotAfterConfiguring() sequence {
	return seq("snapshot after configuring",
		put(accepted, "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`),
		put(refused, "/snapshot/load",
			`{"snapshot_path":"{disk}","mem_backend":{"backend_type":"File","backend_path":"{disk}"},"resume_vm":false}`),
		get(accepted, "/"),
	)
}

func afterTheBoot() sequence {
	s := seq("after the boot",
		put(accepted, "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`),
		put(accepted, "/boot-source", `{"kernel_image_path":"{kernel}","boot_args":"panic=0 console=ttyS0 reboot=k"}`),
		put(accepted, "/drives/a", `{"drive_id":"a","is_root_device":true,"is_read_only":false,"path_on_host":"{disk}"}`),
		put(accepted, "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`),
		put(accepted, "/entropy", `{}`),
		put(accepted, "/balloon", `{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":1}`),
		put(accepted, "/metrics", `{"metrics_path":"{dir}/m"}`),
		put(accepted, "/actions", `{"action_type":"InstanceStart"}`),
		get(accepted, "/", "app_name", "id", "state", "vmm_version"),
		put(refused, "/actions", `{"action_type":"InstanceStart"}`, `{"action_type":"Halt"}`),
		put(refused, "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`),
		put(refused, "/boot-source", `{"kernel_image_path":"{kernel}"}`),
		put(refused, "/drives/a", `{"drive_id":"a","is_root_device":true,"is_read_only":false,"path_on_host":"{disk}"}`),
		put(refused, "/drives/b", `{"drive_id":"b","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"}`),
		put(refused, "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"corpus9"}`),
		put(refused, "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v2"}`),
		put(refused, "/entropy", `{}`),
		put(refused, "/balloon", `{"amount_mib":0,"deflate_on_oom":true}`),
		put(refused, "/logger", `{"log_path":"{dir}/l"}`),
		put(refused, "/metrics", `{"metrics_path":"{dir}/m"}`),
		put(accepted, "/actions", `{"action_type":"FlushMetrics"}`),
		other(accepted, "PATCH", "/balloon", `{"amount_mib":1}`),
		other(refused, "PATCH", "/balloon", `{"amount_mib":129}`),
		other(refused, "PATCH", "/balloon", `{"amount_mib":1,"deflate_on_oom":true}`),
		other(refused, "PATCH", "/balloon", ``),
		get(accepted, "/balloon/statistics", "target_mib", "actual_mib", "target_pages", "actual_pages"),
		get(accepted, "/version", "firecracker_version"),
		put(refused, "/snapshot/create", `{"snapshot_path":"{dir}/state","mem_file_path":"{dir}/memory"}`),
		other(refused, "PATCH", "/vm", `{"state":"Running"}`), other(refused, "PATCH", "/vm", `{}`),
		other(accepted, "PATCH", "/vm", `{"state":"Paused"}`), get(accepted, "/", "state"),
		put(refused, "/snapshot/create", `{"snapshot_path":"{dir}/state"}`, `{"mem_file_path":"{dir}/memory"}`,
			`{"snapshot_type":"Half","snapshot_path":"{dir}/state","mem_file_path":"{dir}/memory"}`,
			`{"snapshot_path":"{dir}/no/state","mem_file_path":"{dir}/memory"}`),
		put(accepted, "/snapshot/create", `{"snapshot_type":"Full","snapshot_path":"{dir}/state","mem_file_path":"{dir}/memory"}`),
		put(refused, "/snapshot/load",
			`{"snapshot_path":"{dir}/state","mem_backend":{"backend_type":"File","backend_path":"{dir}/memory"},"resume_vm":false}`),
		other(accepted, "PATCH", "/vm", `{"state":"Resumed"}`),
		put(stricter, "/actions", `{"action_type":"SendCtrlAltDel"}`),
	)
	s.boots = true
	return s
}
