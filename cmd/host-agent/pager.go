package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/object/diskcache"
	"github.com/wrenn-sandbox/wrenn/internal/object/place"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// pagerVerb makes this program the one that brings the memory of a VM. It is the agent's own business, and not among the commands: it reads no settings, which may be
// others by now, but is told all by the agent that starts it.
const pagerVerb = "pager"

// pagerCommand is nil where there is no object store that memory could come from.
func pagerCommand(cfg config.Objects) ([]string, error) {
	if cfg.Place == "" {
		return nil, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return []string{self, pagerVerb}, nil
}

// memorySource is what a pager is told of where memory comes from. It goes through a file in memory that nobody else can open.
type memorySource struct {
	Key       string
	Cache     string // the folder of what was fetched from S3; "" for none
	Objects   config.Objects
	SecretKey string // of Objects, which does not tell it
}

// memorySources returns what pagers are told.
func memorySources(cfg config.Objects, cache string) (func(key string) (json.RawMessage, error), error) {
	source := memorySource{Cache: cache, Objects: cfg, SecretKey: string(cfg.SecretKey)}
	if cfg.Credentials != "" { // a pager works in another folder
		path, err := filepath.Abs(cfg.Credentials)
		if err != nil {
			return nil, fmt.Errorf("find the credentials: %w", err)
		}
		source.Objects.Credentials = path
	}
	return func(key string) (json.RawMessage, error) {
		its := source
		its.Key = key
		return json.Marshal(its)
	}, nil
}

// runPager ends when the VM's memory is whole, or with the VM. A signal does not end it: its guest would, too.
func runPager() error {
	return pager.Main(context.Background(), func(ctx context.Context, text json.RawMessage) (pager.Source, error) {
		var source memorySource
		if err := json.Unmarshal(text, &source); err != nil {
			return nil, err
		}
		return source.open(ctx)
	})
}

func (m memorySource) open(ctx context.Context) (pager.Source, error) {
	cfg := m.Objects
	cfg.SecretKey = config.Secret(m.SecretKey)
	objects, err := place.Open(cfg)
	if err != nil {
		return nil, err
	}
	var cache *diskcache.Cache
	if m.Cache != "" {
		cache = diskcache.Borrow(m.Cache)
	}
	return archive.New(objects, cache).Memory(ctx, m.Key)
}
