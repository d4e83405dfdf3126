package guestapp

import (
	"net/http"
	"runtime"
	"strconv"
)

// burn uses all the processor time that there is, for good.
func burn(w http.ResponseWriter, _ *http.Request) {
	for range runtime.NumCPU() {
		go func() {
			for {
				runtime.Gosched() // others get their turn, and no time is left
			}
		}()
	}
	w.WriteHeader(http.StatusNoContent)
}

// hoard fills ?mib= MiB of memory with what cannot be shared, and keeps them.
func hoard(w http.ResponseWriter, r *http.Request) {
	mib, err := strconv.Atoi(r.URL.Query().Get("mib"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	kept := make([]byte, mib<<20)
	for i := range kept {
		kept[i] = byte(i ^ i>>8)
	}
	w.WriteHeader(http.StatusNoContent)
	runtime.KeepAlive(kept)
}
