package main

import (
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/vmtest"
)

func TestForkX(t *testing.T) {
	for _, m := range []int{128, 256} {
		g := vmtest.Boot(t, vmtest.Options{MemoryMiB: m})
		g.Init("")
		s := time.Now()
		done := make(chan int)
		go func() {
			out, exit, err := g.Start("root", "fork")
			t.Log(m, "fork took", time.Since(s), out, exit, err)
			close(done)
		}()
		for i := 0; ; i++ {
			time.Sleep(1 * time.Second)
			s := time.Now()
			g.Post("/init", "{}")
			if d := time.Since(s); d > 300*time.Millisecond {
				t.Log("init at", i, d)
			}
			select {
			case <-done:
			default:
				continue
			}
			break
		}
		s = time.Now()
		g.Post("/shutdown", "")
		g.WaitExit()
		t.Log("shutdown took", time.Since(s))
	}
}
