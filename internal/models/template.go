package models

// Template is an image on a host, of which sandboxes are made. Its tags are those of the column templates of hosts.
type Template struct {
	Name             string `json:"name"`
	Digest           string `json:"digest"`
	Description      string `json:"description"`
	DiskMiB          int    `json:"disk_mib"` // of a sandbox that asks for nothing else, and the least
	DefaultVCPUs     int    `json:"default_vcpus"`
	DefaultMemoryMiB int    `json:"default_memory_mib"`
	Warm             bool   `json:"warm,omitempty"` // sandboxes of it need not boot
}

// Default is what a sandbox takes that asks for nothing else; where it is zero, that is not for the template to say.
func (t Template) Default() Size {
	return Size{VCPUs: t.DefaultVCPUs, MemoryMiB: t.DefaultMemoryMiB, DiskMiB: t.DiskMiB}
}
