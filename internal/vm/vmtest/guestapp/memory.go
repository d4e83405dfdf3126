package guestapp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Memory is what a guest has in its memory, and what the suite looks at after the guest was frozen: bytes, and a count that
// a goroutine keeps increasing once somebody has asked for it. A guest of which nobody does is idle.
type Memory struct {
	wait     func()
	counting sync.Once

	mu    sync.Mutex
	bytes []byte
	ticks uint64
}

// tick is how often the count increases.
const tick = 5 * time.Millisecond

// NewMemory returns an empty one. wait is called before each step of the count.
func NewMemory(wait func()) *Memory { return &Memory{wait: wait} }

func (m *Memory) keepCounting() {
	for range time.Tick(tick) {
		m.wait()
		m.mu.Lock()
		m.ticks++
		m.mu.Unlock()
	}
}

// Save returns all that is in m, for a simulated VMM.
func (m *Memory) Save() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append(binary.LittleEndian.AppendUint64(nil, m.ticks), m.bytes...)
}

// Load is given what Save returned.
func (m *Memory) Load(saved []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ticks, m.bytes = binary.LittleEndian.Uint64(saved), append([]byte(nil), saved[8:]...)
}

// fill makes ?bytes= random bytes of ?seed=, or zeros without one, in the place of those before, where it can: a guest that sets pages
// to zero must not find the old ones again.
func (m *Memory) fill(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.Atoi(r.URL.Query().Get("bytes"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if cap(m.bytes) < size {
		m.bytes = make([]byte, size)
	}
	m.bytes = m.bytes[:size]
	clear(m.bytes)
	if seed := r.URL.Query().Get("seed"); seed != "" {
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(m.bytes) // never fails
	}
}

// show answers with the digest of the bytes.
func (m *Memory) show(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sum := sha256.Sum256(m.bytes)
	reply(w, hex.EncodeToString(sum[:]))
}

func (m *Memory) count(w http.ResponseWriter, _ *http.Request) {
	m.counting.Do(func() { go m.keepCounting() })
	m.mu.Lock()
	defer m.mu.Unlock()
	reply(w, strconv.FormatUint(m.ticks, 10))
}
