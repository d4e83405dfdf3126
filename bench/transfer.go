package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestimage"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// diskMiB has room for the file that is written and for the one that it replaces.
const diskMiB = 4096

// transfer is one of the ways that bytes take; it moves as many as it is given.
type transfer func(ctx context.Context, size int64) error

// transfersAgainstChannel moves a file by turns through the REST API and the same number of bytes through the
// channel to a second, equal VM, so that both see the same machine. That VM's guest only takes and gives them:
// no HTTP, no disk.
func (b *bench) transfersAgainstChannel(ctx context.Context) error {
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: 256, DiskMiB: diskMiB})
	if err != nil {
		return err
	}
	alone, end, err := b.bareVM(ctx, guestimage.Make)
	if err != nil {
		return err
	}
	defer end()
	file := newFile(b.client, sb.ID)
	if err := b.pairs(ctx, "up", file.write, through(alone, guestapp.DiscardPort, guestapp.Send)); err != nil {
		return err
	}
	if err := b.pairs(ctx, "down", file.read, through(alone, guestapp.SourcePort, guestapp.Receive)); err != nil {
		return err
	}
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return err
}

// pairs measures one direction.
func (b *bench) pairs(ctx context.Context, way string, file, channel transfer) error {
	var files, channels, shares []float64
	for i := range b.transfers + 1 {
		whole, err := b.speed(ctx, file)
		if err != nil {
			return fmt.Errorf("file %s, round %d: %w", way, i, err)
		}
		raw, err := b.speed(ctx, channel)
		if err != nil {
			return fmt.Errorf("channel %s, round %d: %w", way, i, err)
		}
		if i > 0 { // the first warms the guests
			files, channels, shares = append(files, whole), append(channels, raw), append(shares, 100*whole/raw)
		}
	}
	b.add("file_"+way+"_mib_s", "MiB/s", fmt.Sprintf("a file of %d MiB through …/files (minimal, 1 vCPU, 256 MiB)", b.transferSize>>20), files)
	b.add("channel_"+way+"_mib_s", "MiB/s", "the same number of bytes through the channel to an equal VM, without HTTP and disk", channels)
	b.add("file_"+way+"_of_channel_pct", "%", "the first as a share of the second, pair by pair", shares)
	return nil
}

// speed returns MiB a second.
func (b *bench) speed(ctx context.Context, move transfer) (float64, error) {
	begin := time.Now()
	err := move(ctx, b.transferSize)
	return float64(b.transferSize) / (1 << 20) / time.Since(begin).Seconds(), err
}

// through moves bytes over a stream of its own to a port of the suite's guest.
func through(guest vm.Running, port uint32, move func(net.Conn, int64) error) transfer {
	return func(ctx context.Context, size int64) error {
		conn, err := guest.Dial(ctx, port)
		if err != nil {
			return err
		}
		defer conn.Close()
		return move(conn, size)
	}
}

// file is one file of a sandbox. It holds the same block over and over.
type file struct {
	client  *wrenn.Client
	sandbox string
	block   []byte
}

// filePath is where the file is.
const filePath = "/home/user/transfer"

func newFile(client *wrenn.Client, sandbox string) *file {
	block := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(block) // never fails
	return &file{client: client, sandbox: sandbox, block: block}
}

func (f *file) write(ctx context.Context, size int64) error {
	written, err := f.client.WriteFile(ctx, f.sandbox, filePath, &blocks{block: f.block, left: size})
	if err == nil && written.Size != size {
		err = fmt.Errorf("the file has %d bytes, not %d", written.Size, size)
	}
	return err
}

func (f *file) read(ctx context.Context, size int64) error {
	body, err := f.client.ReadFile(ctx, f.sandbox, filePath)
	if err != nil {
		return err
	}
	defer body.Close()
	got := make([]byte, len(f.block))
	for ; size > 0; size -= int64(len(got)) {
		got = got[:min(size, int64(len(got)))]
		if _, err := io.ReadFull(body, got); err != nil {
			return err
		}
		if !bytes.Equal(got, f.block[:len(got)]) {
			return errors.New("the file is not what was written")
		}
	}
	return nil
}

// blocks gives a block over and over. Like whoever sends a file, it knows how much there is.
type blocks struct {
	block []byte
	rest  []byte
	left  int64
}

func (b *blocks) Len() int { return int(b.left) }

func (b *blocks) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if len(b.rest) == 0 {
		b.rest = b.block
	}
	n := copy(p, b.rest[:min(b.left, int64(len(b.rest)))])
	b.rest = b.rest[n:]
	b.left -= int64(n)
	return n, nil
}
