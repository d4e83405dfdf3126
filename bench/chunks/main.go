// Command chunks measures what storing a snapshot in an object store takes, the first and the second time, beside `zstd -T0` and a plain upload of
// the same files to the same S3 server on loopback. It merges its results into bench.json.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/bench/report"
	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3/s3test"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
)

func main() {
	out := flag.String("o", "build/bench.json", "file for the results")
	images := flag.String("images", "build/guest/images", "folder of the templates: their disks stand for a snapshot's files")
	rounds := flag.Int("rounds", 3, "snapshots to store")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *images, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench chunks:", err)
		os.Exit(1)
	}
}

// bench is what is measured, by name.
type bench struct {
	dir     string
	images  string
	samples map[string][]float64
}

func run(ctx context.Context, out, images string, rounds int) (err error) {
	dir, err := os.MkdirTemp("", "wrenn-bench-chunks")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{dir, images, map[string][]float64{}}
	for i := range rounds {
		if err := b.round(ctx, filepath.Join(dir, fmt.Sprint(i))); err != nil {
			return err
		}
	}
	results := b.results()
	return errors.Join(report.Print(results), report.Merge(out, results))
}

// round does everything once, with an empty server.
func (b *bench) round(ctx context.Context, dir string) (err error) {
	server, err := s3test.Start(filepath.Join(dir, "s3"))
	if err != nil {
		return err
	}
	defer func() {
		server.Kill()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	objects, err := s3.New(server.Options())
	if err != nil {
		return err
	}
	here, err := snapshot.Open(filepath.Join(dir, "here"))
	if err != nil {
		return err
	}
	first, err := b.snapshot(ctx, here, "first", "")
	if err != nil {
		return err
	}
	if err := b.plain(ctx, first, server); err != nil {
		return err
	}
	if err := b.store(ctx, archive.New(objects, nil), first, here); err != nil {
		return err
	}
	return b.fetch(ctx, archive.New(objects, nil), first, filepath.Join(dir, "there"))
}

// snapshot makes one of real files: the disks of two templates, or a clone of another snapshot with a hundredth of its chunks changed.
func (b *bench) snapshot(ctx context.Context, s *snapshot.Store, id, from string) (snapshot.Snapshot, error) {
	g, err := s.Stage(id)
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	memory, rootfs := filepath.Join(b.images, "minimal", "rootfs.ext4"), filepath.Join(b.images, "python311", "rootfs.ext4")
	if from != "" {
		memory, rootfs = filepath.Join(from, snapshot.MemoryFile), filepath.Join(from, snapshot.RootfsFile)
	}
	for source, path := range map[string]string{memory: g.Files().Memory, rootfs: g.Rootfs()} {
		if _, err := clone.File(ctx, source, path, true); err != nil {
			return snapshot.Snapshot{}, err
		}
		if err := change(path, from != ""); err != nil {
			return snapshot.Snapshot{}, err
		}
	}
	if err := os.WriteFile(g.Files().State, []byte(id), 0o600); err != nil {
		return snapshot.Snapshot{}, err
	}
	if err := g.Commit(snapshot.Manifest{Kind: snapshot.Named, CreatedAt: time.Now().UTC()}); err != nil {
		return snapshot.Snapshot{}, err
	}
	return s.Snapshot(id)
}

func change(path string, really bool) error {
	if !really {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	for at := int64(0); err == nil && at < info.Size(); at += 100 * snapshot.ChunkSize {
		_, err = f.WriteAt([]byte("changed"), at)
	}
	return errors.Join(err, f.Close())
}
