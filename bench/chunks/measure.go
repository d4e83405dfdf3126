package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/wrenn-sandbox/wrenn/bench/report"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3/s3test"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
)

const mib = 1 << 20

// how says what each figure is.
var how = map[string]string{
	"chunks_first_upload_mib_s":   "snapshot of two templates' disks into S3 on loopback, its data by the time of Upload",
	"chunks_again_upload_mib_s":   "the same snapshot a second time",
	"chunks_changed_upload_mib_s": "a clone of it with every hundredth chunk changed, its parent known",
	"chunks_fetch_mib_s":          "the first one on a host that has nothing",
	"chunks_first_stored_mib":     "what the first upload sent",
	"chunks_again_stored_mib":     "what the second one sent",
	"chunks_changed_stored_mib":   "what that of the clone sent",
	"plain_s3_upload_mib_s":       "the same files put into the same server as they are (minio-go, one request a file), by their data",
	"plain_s3_stored_mib":         "what that sent",
	"zstd_t0_mib_s":               "zstd -1 -T0 of the same files into nothing, by their data",
	"zstd_t0_stored_mib":          "what came out of it",
}

func (b *bench) results() (all []report.Result) {
	for _, name := range slices.Sorted(maps.Keys(b.samples)) {
		unit := "MiB"
		if strings.HasSuffix(name, "_s") {
			unit = "MiB/s"
		}
		all = append(all, report.New(name, unit, how[name], b.samples[name]))
	}
	return all
}

func (b *bench) add(name string, value float64) { b.samples[name] = append(b.samples[name], value) }

// timed notes how many MiB of data a second do takes.
func (b *bench) timed(name string, data float64, do func() error) error {
	start := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.add(name, data/time.Since(start).Seconds())
	return nil
}

// data is what of a folder's files is not holes, in MiB.
func data(dir string) (total float64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			total += float64(info.Sys().(*syscall.Stat_t).Blocks*512) / mib // stat(2)
		}
		return err
	})
	return total, err
}

// store uploads the snapshot, again, and a clone of it.
func (b *bench) store(ctx context.Context, a *archive.Archive, first snapshot.Snapshot, here *snapshot.Store) error {
	clone, err := b.snapshot(ctx, here, "clone", first.Dir)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		s    snapshot.Snapshot
		from archive.Origin
	}{{"first", first, archive.Origin{}}, {"again", first, archive.Origin{}}, {"changed", clone, archive.Origin{Parent: &first}}} {
		size, err := data(c.s.Dir)
		if err != nil {
			return err
		}
		var done archive.Uploaded
		err = b.timed("chunks_"+c.name+"_upload_mib_s", size, func() (err error) {
			done, err = a.Upload(ctx, c.s, c.from)
			return err
		})
		if err != nil {
			return err
		}
		b.add("chunks_"+c.name+"_stored_mib", float64(done.SentBytes)/mib)
	}
	return nil
}

func (b *bench) fetch(ctx context.Context, a *archive.Archive, s snapshot.Snapshot, dir string) error {
	there, err := snapshot.Open(dir)
	if err != nil {
		return err
	}
	size, err := data(s.Dir)
	if err != nil {
		return err
	}
	return b.timed("chunks_fetch_mib_s", size, func() error {
		_, err := a.Fetch(ctx, archive.Key(s.Manifest), there, archive.Origin{})
		return err
	})
}

// plain compresses the files with zstd, and uploads them as they are.
func (b *bench) plain(ctx context.Context, s snapshot.Snapshot, server *s3test.Server) error {
	size, err := data(s.Dir)
	if err != nil {
		return err
	}
	var out counter
	err = b.timed("zstd_t0_mib_s", size, func() error {
		cmd := exec.CommandContext(ctx, "zstd", "-1", "-T0", "-q", "-c", filepath.Join(s.Dir, snapshot.MemoryFile), s.Rootfs())
		cmd.Stdout = &out
		return cmd.Run()
	})
	if err != nil {
		return err
	}
	b.add("zstd_t0_stored_mib", float64(out)/mib)
	var sent int64
	err = b.timed("plain_s3_upload_mib_s", size, func() (err error) {
		sent, err = plainUpload(ctx, s, server)
		return err
	})
	b.add("plain_s3_stored_mib", float64(sent)/mib)
	return err
}

func plainUpload(ctx context.Context, s snapshot.Snapshot, server *s3test.Server) (sent int64, err error) {
	o := server.Options()
	client, err := minio.New(o.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Region: o.Region})
	if err != nil {
		return 0, err
	}
	for _, name := range []string{snapshot.MemoryFile, snapshot.RootfsFile} {
		info, err := client.FPutObject(ctx, o.Bucket, "plain/"+name, filepath.Join(s.Dir, name), minio.PutObjectOptions{DisableMultipart: true})
		if err != nil {
			return 0, err
		}
		sent += info.Size
	}
	return sent, nil
}

// counter counts what is written to it.
type counter int64

var _ io.Writer = (*counter)(nil)

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
