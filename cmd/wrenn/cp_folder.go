package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// folderInto copies what is in a folder into one of a sandbox, which is made where it is not there.
func (c *copier) folderInto(ctx context.Context, what thing, to place) error {
	to, there, err := c.target(ctx, to, what.name)
	if err != nil {
		return err
	}
	if there != nil && there.Type != wrenn.Directory {
		return models.Errorf(models.Invalid, "%s is there and is no folder", to)
	}
	if _, err := c.client.MakeDirectory(ctx, to.sandbox, to.path, c.opts...); err != nil {
		return fmt.Errorf("make %s: %w", to, err)
	}
	source, size, err := c.openFolder(ctx, what)
	if err != nil {
		return err
	}
	defer source.Close()
	shown := c.app.progress(source, to.path, size)
	defer shown.end()
	if err := c.client.WriteArchive(ctx, to.sandbox, to.path, shown, c.opts...); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	return nil
}

// openFolder opens what is in a folder as a tar archive, and says about how long that is; -1 where that is not known.
func (c *copier) openFolder(ctx context.Context, what thing) (io.ReadCloser, int64, error) {
	if what.sandbox == "" {
		size := int64(-1)
		if isTerminal(c.app.stderr) { // nobody else asks
			size = packedSize(what.path)
		}
		return packed(what.path, func(name string) {
			fmt.Fprintf(c.app.stderr, "wrenn: left out, as it is neither a file, a folder nor a link: %s\n", printable(name))
		}), size, nil
	}
	r, err := c.client.ReadArchive(ctx, what.sandbox, what.path, c.opts...)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", what.place, err)
	}
	return r, -1, nil
}

// folderOut copies what is in a folder of a sandbox to this machine.
func (c *copier) folderOut(ctx context.Context, what thing, to place) error {
	source, size, err := c.openFolder(ctx, what)
	if err != nil {
		return err
	}
	defer source.Close()
	shown := c.app.progress(source, what.name, size)
	defer shown.end()
	if to.path == "-" {
		_, err = io.Copy(c.app.stdout, shown)
	} else {
		err = c.unpackInto(shown, to.path, what.name)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", what.place, localError(err))
	}
	return nil
}

func (c *copier) unpackInto(r io.Reader, target, name string) error {
	info, err := os.Stat(target)
	if err == nil && info.IsDir() || strings.HasSuffix(target, "/") {
		target = filepath.Join(target, name)
	}
	if err := os.MkdirAll(target, 0o777); err != nil { // less the umask
		return err
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return err
	}
	defer root.Close()
	return unpack(r, root, func(name string) {
		fmt.Fprintf(c.app.stderr, "wrenn: left out, as it is neither a file, a folder nor a link: %s\n", printable(name))
	})
}
