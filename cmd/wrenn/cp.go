package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newCp(a *app) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy a file into, out of or between sandboxes",
		Long: `Copies one file. SOURCE and DESTINATION are SANDBOX:PATH, a local path, or - for standard
input or output; at least one of them is in a sandbox. A PATH without a leading slash begins in the user's
home directory. A destination that ends with a slash, or is a local folder, keeps the file's name. The file
appears whole or not at all.`,
		Example: `  wrenn cp main.py sb-0a1b2c3d:/tmp/main.py
  wrenn cp sb-0a1b2c3d:out/result.csv .
  tar c src | wrenn cp - sb-0a1b2c3d:src.tar`,
		Args: cobra.ExactArgs(2),
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest (default: the template's)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, to := parsePlace(args[0]), parsePlace(args[1])
		if err := checkPlaces(from, to); err != nil {
			return err
		}
		var opts []wrenn.FileOption
		if user != "" {
			opts = append(opts, wrenn.AsUser(user))
		}
		return a.copyFile(cmd.Context(), from, to, opts)
	}
	return cmd
}

// place is where a file is.
type place struct {
	sandbox string // "" for this machine
	path    string // "-" on this machine: standard input or output
}

var inSandbox = regexp.MustCompile(`^(sb-[^:/]*):(.*)$`)

func parsePlace(arg string) place {
	if m := inSandbox.FindStringSubmatch(arg); m != nil {
		return place{sandbox: m[1], path: m[2]}
	}
	return place{path: arg}
}

func checkPlaces(from, to place) error {
	switch {
	case from.sandbox == "" && to.sandbox == "":
		return models.Errorf(models.Invalid, "neither the source nor the destination is in a sandbox").WithHint("in a sandbox: sb-0a1b2c3d:/path")
	case from.path == "" || from.sandbox != "" && strings.HasSuffix(from.path, "/"):
		return models.Errorf(models.Invalid, "the source does not name a file").WithHint("folders: pack them with tar first")
	case to.sandbox == "" && to.path == "":
		return models.Errorf(models.Invalid, "the destination does not name a file or folder")
	case from.sandbox == "" && from.path == "-" && (to.path == "" || strings.HasSuffix(to.path, "/")):
		return models.Errorf(models.Invalid, "standard input has no name: the destination must name a file")
	}
	return nil
}

func (a *app) copyFile(ctx context.Context, from, to place, opts []wrenn.FileOption) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if to.sandbox == "" {
		return a.download(ctx, client, from, to, opts)
	}
	source, name, err := a.openSource(ctx, client, from, opts)
	if err != nil {
		return err
	}
	defer source.Close()
	if to.path == "" || strings.HasSuffix(to.path, "/") {
		to.path += name
	}
	if _, err := client.WriteFile(ctx, to.sandbox, to.path, source, opts...); err != nil {
		return fmt.Errorf("write %s:%s: %w", to.sandbox, to.path, err)
	}
	return nil
}

// openSource opens a file here or in a sandbox and says what it is called.
func (a *app) openSource(ctx context.Context, client *wrenn.Client, from place, opts []wrenn.FileOption) (io.ReadCloser, string, error) {
	if from.sandbox != "" {
		r, err := client.ReadFile(ctx, from.sandbox, from.path, opts...)
		if err != nil {
			return nil, "", fmt.Errorf("read %s:%s: %w", from.sandbox, from.path, err)
		}
		return r, path.Base(from.path), nil
	}
	if from.path == "-" {
		return io.NopCloser(a.stdin), "", nil
	}
	f, err := os.Open(from.path)
	if err != nil {
		return nil, "", localError(err)
	}
	if info, err := f.Stat(); err != nil || info.IsDir() {
		f.Close()
		return nil, "", models.Errorf(models.Invalid, "%s is a folder", from.path).WithHint("pack it first: tar c %s | wrenn cp - SANDBOX:FILE.tar", from.path)
	}
	return f, filepath.Base(from.path), nil
}

func (a *app) download(ctx context.Context, client *wrenn.Client, from, to place, opts []wrenn.FileOption) error {
	source, name, err := a.openSource(ctx, client, from, opts)
	if err != nil {
		return err
	}
	defer source.Close()
	if to.path == "-" {
		_, err = io.Copy(a.stdout, source)
	} else {
		err = save(source, to.path, name)
	}
	if err != nil {
		return fmt.Errorf("copy %s:%s: %w", from.sandbox, from.path, localError(err))
	}
	return nil
}

// save writes what r gives to target, or under name in it if it is a folder. A regular file
// changes all at once and keeps its mode; a device or pipe is written to as it is.
func save(r io.Reader, target, name string) error {
	info, err := os.Stat(target)
	if err == nil && info.IsDir() || strings.HasSuffix(target, "/") {
		target = filepath.Join(target, name)
		info, err = os.Stat(target)
	}
	if err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(target, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	mode := os.FileMode(0o666) // less the umask
	if err == nil {
		mode = info.Mode().Perm()
		if target, err = filepath.EvalSymlinks(target); err != nil {
			return err
		}
	}
	return replace(r, target, mode, info != nil)
}

// replace writes a new file beside target and gives it target's name.
func replace(r io.Reader, target string, mode os.FileMode, exactly bool) (err error) {
	tmp := fmt.Sprintf("%s.wrenn-%d", target, os.Getpid())
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp) // err says more
		}
	}()
	if exactly {
		if err := f.Chmod(mode); err != nil {
			f.Close()
			return err
		}
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, target)
}

// localError gives errors of this machine's files their code.
func localError(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return models.Errorf(models.NotFound, "%v", err)
	case errors.Is(err, os.ErrPermission):
		return models.Errorf(models.Forbidden, "%v", err)
	case errors.Is(err, os.ErrExist):
		return models.Errorf(models.Conflict, "%v", err)
	}
	return err
}
