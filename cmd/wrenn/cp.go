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
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newCp(a *app) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy a file or folder into, out of or between sandboxes",
		Long: `Copies a file, or a folder with all that is in it. SOURCE and DESTINATION are SANDBOX:PATH, a local path, or -
for standard input or output; at least one of them is in a sandbox. A PATH without a leading slash begins in the
user's home directory. A destination that ends with a slash, or is a folder, keeps the source's name.

A file appears whole or not at all. A new file gets the source's permissions, one that is replaced keeps its own. A
folder that is there is copied into, file by file. A folder on standard output is a tar archive.
On a terminal the progress is shown.`,
		Example: `  wrenn cp main.py sb-0a1b2c3d:/tmp/main.py
  wrenn cp sb-0a1b2c3d:out/result.csv .
  wrenn cp src sb-0a1b2c3d:
  pg_dump db | wrenn cp - sb-0a1b2c3d:db.sql
  wrenn cp sb-0a1b2c3d:/var/log - | tar tv`,
		Args: cobra.ExactArgs(2),
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest (default: the template's)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, to := parsePlace(args[0]), parsePlace(args[1])
		if err := checkPlaces(from, to); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		c := &copier{app: a, client: client}
		if user != "" {
			c.opts = append(c.opts, wrenn.AsUser(user))
		}
		return c.copy(cmd.Context(), from, to)
	}
	return cmd
}

// place is where a file is.
type place struct {
	sandbox string // "" for this machine
	path    string // "-" on this machine: standard input or output
}

func (p place) String() string {
	if p.sandbox == "" {
		return p.path
	}
	return p.sandbox + ":" + p.path
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
	case from.path == "":
		return models.Errorf(models.Invalid, "the source does not name a file or folder").WithHint("the home directory is SANDBOX:.")
	case to.sandbox == "" && to.path == "":
		return models.Errorf(models.Invalid, "the destination does not name a file or folder")
	case from.sandbox == "" && from.path == "-" && (to.path == "" || strings.HasSuffix(to.path, "/")):
		return models.Errorf(models.Invalid, "standard input has no name: the destination must name a file")
	}
	return nil
}

// copier copies one thing.
type copier struct {
	app    *app
	client *wrenn.Client
	opts   []wrenn.FileOption
}

func (c *copier) copy(ctx context.Context, from, to place) error {
	what, err := c.look(ctx, from)
	if err != nil {
		return err
	}
	switch {
	case to.sandbox != "" && what.folder:
		return c.folderInto(ctx, what, to)
	case to.sandbox != "":
		return c.fileInto(ctx, what, to)
	case what.folder:
		return c.folderOut(ctx, what, to)
	}
	return c.fileOut(ctx, what, to)
}

// thing is what is copied.
type thing struct {
	place
	name   string      // what it is called; "" for standard input
	mode   os.FileMode // permissions; 0 where there are none
	size   int64       // of a file; -1 where that is not known
	folder bool
}

// look finds out what there is at a place.
func (c *copier) look(ctx context.Context, at place) (thing, error) {
	if at.sandbox != "" {
		e, err := c.client.StatFile(ctx, at.sandbox, at.path, c.opts...)
		if err != nil {
			return thing{}, fmt.Errorf("read %s: %w", at, err)
		}
		if e.Type != wrenn.RegularFile && e.Type != wrenn.Directory {
			return thing{}, models.Errorf(models.Invalid, "%s is neither a file nor a folder", at)
		}
		return thing{place: at, name: path.Base(e.Path), mode: modeOf(e), size: e.Size, folder: e.Type == wrenn.Directory}, nil
	}
	if at.path == "-" {
		return thing{place: at, size: -1}, nil
	}
	info, err := os.Stat(at.path)
	if err != nil {
		return thing{}, localError(err)
	}
	what := thing{place: at, size: -1, folder: info.IsDir()}
	if abs, err := filepath.Abs(at.path); err == nil {
		what.name = filepath.Base(abs) // "." and ".." have one too
	}
	if info.Mode().IsRegular() {
		what.size, what.mode = info.Size(), info.Mode().Perm()
	}
	return what, nil
}

// modeOf reads permissions; 0 for what is none.
func modeOf(e *wrenn.Entry) os.FileMode {
	mode, err := strconv.ParseUint(e.Mode, 8, 32)
	if err != nil {
		return 0
	}
	return os.FileMode(mode) & os.ModePerm
}

// open opens a file here or in a sandbox.
func (c *copier) open(ctx context.Context, what thing) (io.ReadCloser, error) {
	switch {
	case what.sandbox != "":
		f, err := c.client.ReadFile(ctx, what.sandbox, what.path, c.opts...)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", what.place, err)
		}
		return f.ReadCloser, nil
	case what.path == "-":
		return io.NopCloser(c.app.stdin), nil
	}
	f, err := os.Open(what.path)
	return f, localError(err)
}

// target is where in a sandbox something called name goes, and what is there, if anything.
func (c *copier) target(ctx context.Context, to place, name string) (place, *wrenn.Entry, error) {
	if to.path == "" || strings.HasSuffix(to.path, "/") {
		to.path += name
	}
	for {
		e, err := c.client.StatFile(ctx, to.sandbox, to.path, c.opts...)
		switch {
		case wrenn.CodeOf(err) == wrenn.NotFound:
			return to, nil, nil // where it is the sandbox that is missing, the writing says so
		case err != nil:
			return to, nil, fmt.Errorf("write %s: %w", to, err)
		case e.Type != wrenn.Directory || name == "":
			return to, e, nil
		}
		to.path = strings.TrimSuffix(to.path, "/") + "/" + name
		name = "" // only once
	}
}

func (c *copier) fileInto(ctx context.Context, what thing, to place) error {
	to, there, err := c.target(ctx, to, what.name)
	if err != nil {
		return err
	}
	if there != nil && there.Type == wrenn.Directory {
		return models.Errorf(models.Invalid, "%s is a folder", to)
	}
	source, err := c.open(ctx, what)
	if err != nil {
		return err
	}
	defer source.Close()
	shown := c.app.progress(source, to.path, what.size)
	defer shown.end()
	opts := slices.Clone(c.opts)
	if there == nil && what.mode != 0 {
		opts = append(opts, wrenn.WithMode(uint32(what.mode)))
	}
	if _, err := c.client.WriteFile(ctx, to.sandbox, to.path, sized(shown, what.size), opts...); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	return nil
}

// sizedFrom is how large a file is at least of which the size is told before it is sent. What smaller ones say, such as those of
// /proc and /sys, may not be so.
const sizedFrom = 1 << 20

// sized returns a reader that tells the size of r, and gives no more where r has grown since.
func sized(r io.Reader, size int64) io.Reader {
	if size < sizedFrom {
		return r
	}
	return exactly{&io.LimitedReader{R: r, N: size}}
}

// exactly is a reader that knows how much it has left.
type exactly struct{ *io.LimitedReader }

// Len is for the client's WriteFile.
func (e exactly) Len() int { return int(e.N) }

func (c *copier) fileOut(ctx context.Context, what thing, to place) error {
	source, err := c.open(ctx, what)
	if err != nil {
		return err
	}
	defer source.Close()
	shown := c.app.progress(source, what.name, what.size)
	defer shown.end()
	if to.path == "-" {
		_, err = io.Copy(c.app.stdout, shown)
	} else {
		err = save(shown, to.path, what.name, what.mode)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", what.place, localError(err))
	}
	return nil
}

// save writes what r gives to target, or under name in it if it is a folder. A regular file
// changes all at once and keeps its mode, a new one gets mode; a device or pipe is written to as it is.
func save(r io.Reader, target, name string, mode os.FileMode) error {
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
	if err == nil {
		mode = info.Mode().Perm()
		if target, err = filepath.EvalSymlinks(target); err != nil {
			return err
		}
	}
	return replace(r, target, mode, info != nil) // a new file's mode is less the umask
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
