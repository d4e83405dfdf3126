package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// envdPackage and probePackage are built into every image.
const (
	envdPackage  = "github.com/wrenn-sandbox/wrenn/envd"
	probePackage = "github.com/wrenn-sandbox/wrenn/envd/internal/vmtest/probe"
)

// imageSize is the size of the image's file system; the disk may be larger.
const imageSize = "32M"

// folders are those that every template has and that are empty in it.
var folders = map[string]os.FileMode{
	"dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o755,
	"usr/local/bin": 0o755, "home/user": 0o777,
}

// files are what envd's services read.
var files = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
	"etc/group":  "root:x:0:\ntty:x:5:\nuser:x:1000:\n",
	"etc/hosts":  "127.0.0.1\tlocalhost\n192.0.2.1\tkept\n",
}

// builder makes the one image of a test binary, of which each guest has a copy.
type builder struct {
	once  sync.Once
	dir   string
	image string
	err   error
}

var images builder

// Main runs the tests and removes what they shared. TestMain calls it.
func Main(m *testing.M) int {
	defer func() { _ = os.RemoveAll(images.dir) }() // a no-op while dir is empty
	return m.Run()
}

// copyImage makes the image at the first call, and a copy of it at path.
func copyImage(t testing.TB, path string) {
	t.Helper()
	images.once.Do(images.build)
	if images.err != nil {
		t.Fatal(images.err)
	}
	if err := run("cp", "--sparse=always", images.image, path); err != nil {
		t.Fatal(err)
	}
}

// build makes a root file system with envd and the probe, without mounting anything.
// Like the templates it has neither a journal nor room in its descriptor table to grow.
func (b *builder) build() {
	if b.dir, b.err = os.MkdirTemp("", "envd-image-"); b.err != nil {
		return
	}
	root := filepath.Join(b.dir, "root")
	b.image = filepath.Join(b.dir, "root.ext4")
	for _, step := range []func() error{
		func() error { return makeTree(root) },
		func() error { return compile(envdPackage, filepath.Join(root, "usr/local/bin/envd")) },
		func() error { return compile(probePackage, filepath.Join(root, "usr/local/bin/probe")) },
		func() error {
			return run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^resize_inode,^has_journal,metadata_csum_seed",
				"-E", "lazy_itable_init=1", "-d", root, b.image, imageSize)
		},
	} {
		if b.err = step(); b.err != nil {
			return
		}
	}
}

func makeTree(root string) error {
	for name, mode := range folders {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(path, mode); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compile makes a static program, as bin/envd is.
func compile(pkg, output string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", output, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

func run(name string, args ...string) error {
	_, err := output(name, args...)
	return err
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return string(out), err
}
