package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/vmtest"
)

func TestLoadX(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{Arguments: networkArguments})
	g.Init("")
	up := bytes.Repeat([]byte("0123456789abcdef"), 32<<16)
	bu, bd := time.Hour, time.Hour
	for range 14 {
		s := time.Now()
		g.PostRaw("/files?path=/dev/shm/x&username=root", up)
		bu = min(bu, time.Since(s))
		s = time.Now()
		g.Download("/files?path=/dev/shm/x&username=root")
		bd = min(bd, time.Since(s))
	}
	var be time.Duration = time.Hour
	for range 40 {
		s := time.Now()
		g.Post("/init", "{}")
		be = min(be, time.Since(s))
	}
	t.Logf("upload %.0f download %.0f MiB/s, best POST %v", 32/bu.Seconds(), 32/bd.Seconds(), be)
}
