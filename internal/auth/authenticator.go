package auth

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	// touchEvery is how far a key's last use may lag behind in the store.
	touchEvery = 10 * time.Second
	touchLimit = 5 * time.Second
)

// Store is where the truth about keys is.
type Store interface {
	// KeyByHash returns NotFound for a key that does not exist, has expired or is revoked.
	KeyByHash(ctx context.Context, hash [32]byte) (db.ValidKey, error)
	TouchKeys(ctx context.Context, used map[id.Key]time.Time) error
}

// Authenticator recognises keys. All methods may be called at the same time.
type Authenticator struct {
	store Store
	cache *Cache
	log   *slog.Logger
	stop  chan struct{}
	done  chan struct{}

	mu   sync.Mutex // guards used
	used map[id.Key]time.Time
}

// New returns an authenticator, whose Close the caller must call. cache may be nil.
func New(store Store, cache *Cache, log *slog.Logger) *Authenticator {
	a := &Authenticator{
		store: store, cache: cache, log: log,
		stop: make(chan struct{}), done: make(chan struct{}), used: map[id.Key]time.Time{},
	}
	go a.run()
	return a
}

// Authenticate returns whose key it is, or an Unauthenticated error that does not tell a
// malformed key from an unknown, an expired or a revoked one by more than its form. A revoked key is
// refused at once where Redis was told, and CacheFor later at the latest.
func (a *Authenticator) Authenticate(ctx context.Context, key Secret) (Principal, error) {
	if key == "" {
		return Principal{}, models.Errorf(models.Unauthenticated, "the request has no API key").
			WithHint("send the header %s: wrn_…", Header)
	}
	if !key.WellFormed() {
		return Principal{}, models.Errorf(models.Unauthenticated, "the API key is malformed").
			WithHint("a key is wrn_ and 32 lower-case hexadecimal digits")
	}
	hash := key.Hash()
	began := time.Now()
	p, ok := a.cache.principal(ctx, hash)
	if !ok {
		k, err := a.store.KeyByHash(ctx, hash)
		if err != nil {
			return Principal{}, refusal(err)
		}
		p = Principal{Key: k.ID, Account: k.Account, Scopes: scopesOf(k.Scopes), until: k.Until}
		a.cache.remember(ctx, hash, p, began)
	}
	if !p.until.IsZero() && !began.Before(p.until) {
		return Principal{}, refusal(models.Errorf(models.NotFound, "the key has expired"))
	}
	p.hash = hash
	a.mu.Lock()
	a.used[p.Key] = time.Now()
	a.mu.Unlock()
	return p, nil
}

func refusal(err error) error {
	if models.CodeOf(err) != models.NotFound {
		return err
	}
	return models.Errorf(models.Unauthenticated, "the API key is not valid").
		WithHint("it may have expired or been revoked; control-plane key create makes a new one")
}

// run writes down the last use of keys now and then, off the path of requests.
func (a *Authenticator) run() {
	defer close(a.done)
	tick := time.NewTicker(touchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.touch()
		case <-a.stop:
			a.touch()
			return
		}
	}
}

func (a *Authenticator) touch() {
	a.mu.Lock()
	used := a.used
	a.used = map[id.Key]time.Time{}
	a.mu.Unlock()
	if len(used) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), touchLimit)
	defer cancel()
	if err := a.store.TouchKeys(ctx, used); err != nil {
		a.log.Warn("last use of API keys not recorded", "keys", len(used), "error", err)
	}
}

// Close writes down what is left and ends the work in the background. It does not close the cache.
func (a *Authenticator) Close() {
	close(a.stop)
	<-a.done
}
