package vmtest

import (
	"os"
	"os/exec"
	"path/filepath"
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

// buildImage makes a root file system with envd and the probe in dir, without mounting
// anything, and returns its path. Like the templates it has neither journal nor room in
// its descriptor table to grow.
func buildImage(t testing.TB, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "root")
	for name, mode := range folders {
		makeFolder(t, filepath.Join(root, name), mode)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build(t, envdPackage, filepath.Join(root, "usr/local/bin/envd"))
	build(t, probePackage, filepath.Join(root, "usr/local/bin/probe"))
	image := filepath.Join(dir, "root.ext4")
	run(t, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^resize_inode,^has_journal,metadata_csum_seed",
		"-E", "lazy_itable_init=1", "-d", root, image, imageSize)
	return image
}

func makeFolder(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(path, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// build makes a static program, as bin/envd is.
func build(t testing.TB, pkg, output string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", output, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
