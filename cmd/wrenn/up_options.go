package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// maxDataPath leaves room in the 107 bytes of a unix socket's path for what lies below
// the data folder: volume/sandboxes/sb-xxxxxxxx/run/ and a name.
const maxDataPath = 56

// upOptions are the settings of `wrenn up`.
type upOptions struct {
	data, postgres, redis string
	kernel, images        string
	listen, netns, subnet string
	driver, volume        string
	objects               string // empty where the agent's configuration file says it
	envFile               string
	keepSandboxes, json   bool
	logs, quiet           bool
	readyTimeout          time.Duration
	stopTimeout           time.Duration
	command               []string
	// found beside this program
	agentProgram, controlPlaneProgram string
}

// declare binds the flags; the environment gives the defaults, under the names that the servers use.
func (o *upOptions) declare(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.data, "data", firstOf(os.Getenv("WRENN_DATA"), defaultData), "folder for everything that is kept")
	f.StringVar(&o.postgres, "postgres", "", "URL of a Postgres database (default: WRENN_DATABASE_URL, else a private server)")
	f.StringVar(&o.redis, "redis", "", "URL of a Redis (default: WRENN_REDIS_URL, else a private server)")
	f.StringVar(&o.kernel, "kernel", os.Getenv("WRENN_KERNEL"), "guest kernel (default: that of make images)")
	f.StringVar(&o.images, "images", os.Getenv("WRENN_IMAGES"), "folder of template images (default: that of make images)")
	f.StringVar(&o.listen, "listen", firstOf(os.Getenv("WRENN_LISTEN"), "127.0.0.1:8000"), "host:port of the API; port 0 takes a free one")
	f.StringVar(&o.netns, "netns", "host", "network of the sandboxes: host, or isolated in a namespace of its own, without the outside world")
	f.StringVar(&o.subnet, "subnet", firstOf(os.Getenv("WRENN_SUBNET"), "10.0.0.0/16"), "network of the sandboxes")
	f.StringVar(&o.driver, "driver", firstOf(os.Getenv("WRENN_DRIVER"), "auto"), "auto, qemu or firecracker")
	f.StringVar(&o.volume, "volume", firstOf(os.Getenv("WRENN_VOLUME"), "auto"), "auto: an XFS volume in a loop file where the data folder has no reflinks; off")
	f.StringVar(&o.objects, "objects", os.Getenv("WRENN_OBJECTS"), "where hibernated sandboxes go: a folder, or s3://bucket/prefix, of which WRENN_S3_… have the rest (default: the folder objects of the data folder)")
	f.StringVar(&o.envFile, "env-file", "", "write WRENN_URL and WRENN_API_KEY to this file")
	f.DurationVar(&o.readyTimeout, "ready-timeout", 3*time.Minute, "until each part must be ready; the first start may make a volume and copy images")
	f.DurationVar(&o.stopTimeout, "stop-timeout", 30*time.Second, "until a part that does not end is killed")
	f.BoolVar(&o.keepSandboxes, "keep", false, "leave the sandboxes running at the end")
	f.BoolVar(&o.json, "json", false, "print URL and key as JSON once all is ready")
	f.BoolVar(&o.logs, "logs", false, "show the logs of the parts on standard error (default: without a COMMAND)")
}

// complete fills in what is found on this machine and checks the rest, before anything is started.
func (o *upOptions) complete(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return models.Errorf(models.Forbidden, "wrenn up needs root: it makes network devices, mounts and virtual machines").WithHint("sudo wrenn up")
	}
	// Not as the flags' defaults: help would show the passwords in them.
	o.postgres, o.redis = firstOf(o.postgres, os.Getenv("WRENN_DATABASE_URL")), firstOf(o.redis, os.Getenv("WRENN_REDIS_URL"))
	if o.data, err = filepath.Abs(o.data); err != nil {
		return fmt.Errorf("find the data folder: %w", err)
	}
	if o.objects == "" && os.Getenv(config.FileVariable) == "" {
		o.objects = filepath.Join(o.data, "objects")
	}
	if len(o.data) > maxDataPath {
		return models.Errorf(models.Invalid, "the path of the data folder is longer than %d bytes, too long for the sockets in it: %s", maxDataPath, o.data)
	}
	if err := o.checkChoices(); err != nil {
		return err
	}
	if o.listen, err = freeAddress(ctx, o.listen); err != nil {
		return err
	}
	if err := o.findPrograms(); err != nil {
		return err
	}
	return o.findImages()
}

func (o *upOptions) checkChoices() error {
	for _, c := range []struct {
		flag, value string
		allowed     []string
	}{
		{"netns", o.netns, []string{"host", "isolated"}}, {"driver", o.driver, []string{"auto", "qemu", "firecracker"}},
		{"volume", o.volume, []string{"auto", "off"}},
	} {
		if !slices.Contains(c.allowed, c.value) {
			return models.Errorf(models.Invalid, "--%s must be %s, not %q", c.flag, strings.Join(c.allowed, " or "), c.value)
		}
	}
	if o.readyTimeout <= 0 || o.stopTimeout <= 0 {
		return models.Errorf(models.Invalid, "--ready-timeout and --stop-timeout must be above 0")
	}
	if p, err := netip.ParsePrefix(o.subnet); err != nil || !p.Addr().Is4() || p != p.Masked() {
		return models.Errorf(models.Invalid, "--subnet must be an IPv4 network such as 10.0.0.0/16, not %q", o.subnet)
	}
	if o.json && len(o.command) > 0 {
		return models.Errorf(models.Invalid, "--json and a command exclude each other: standard output is the command's")
	}
	return nil
}

// freeAddress checks that nobody listens on address, whose answers could be taken for ours, and replaces
// port 0 by a free one.
func freeAddress(ctx context.Context, address string) (string, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return "", models.Errorf(models.Invalid, "--listen must be host:port, not %q", address)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return "", models.Errorf(models.Conflict, "the API cannot listen on %s: %v", address, err).
			WithHint("is another wrenn up running? Or choose another port: --listen 127.0.0.1:0")
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// findPrograms looks for the servers beside this program.
func (o *upOptions) findPrograms() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if target, err := filepath.EvalSymlinks(self); err == nil {
		self = target
	}
	for name, path := range map[string]*string{"host-agent": &o.agentProgram, "control-plane": &o.controlPlaneProgram} {
		*path = filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(*path); err != nil || info.Mode()&0o111 == 0 {
			return models.Errorf(models.Precondition, "there is no program %s", *path).WithHint("make build")
		}
	}
	return nil
}

// findImages takes what was given, else what `make images` left.
func (o *upOptions) findImages() error {
	kernel, images := guestFiles()
	o.kernel, o.images = firstOf(o.kernel, kernel), firstOf(o.images, images)
	for flag, path := range map[string]*string{"kernel": &o.kernel, "images": &o.images} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("find --%s: %w", flag, err)
		}
		if _, err := os.Stat(abs); *path == "" || err != nil {
			return models.Errorf(models.Precondition, "the guest's %s cannot be found at %q", flag, *path).
				WithHint("make images, or point --%s at it", flag)
		}
		*path = abs
	}
	return nil
}

// guestFiles are the kernel and the images that `make images` leaves in build/guest of the tree that this program was
// built in, or of the current folder.
func guestFiles() (kernel, images string) {
	var trees []string
	if self, err := os.Executable(); err == nil {
		trees = append(trees, filepath.Dir(filepath.Dir(self)))
	}
	trees = append(trees, ".")
	for _, tree := range trees {
		guest := filepath.Join(tree, "build", "guest")
		if _, err := os.Stat(filepath.Join(guest, "vmlinux")); err == nil {
			return filepath.Join(guest, "vmlinux"), filepath.Join(guest, "images")
		}
	}
	return "build/guest/vmlinux", "build/guest/images"
}

func joined(templates []wrenn.Template) string {
	names := make([]string, len(templates))
	for i, t := range templates {
		names[i] = t.Name
	}
	return strings.Join(names, ", ")
}

// preferred is a template for an example.
func preferred(templates []wrenn.Template) string {
	for _, t := range templates {
		if t.Name == "python311" {
			return t.Name
		}
	}
	return templates[0].Name
}
