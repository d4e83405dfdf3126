package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	headerLimit = 10 * time.Second
	idleLimit   = 2 * time.Minute // of a connection between requests
	maxHeader   = 64 << 10        // bytes
	cutOffLimit = 5 * time.Second // for requests to end once they were cancelled
)

// Serve answers requests on l until ctx ends. Then it takes no new ones and waits for those under
// way, WebSockets too, for drain at most; what still runs then is cut off, and told so.
func Serve(ctx context.Context, l net.Listener, h http.Handler, drain time.Duration, log *slog.Logger) error {
	base, cutOff := context.WithCancelCause(context.WithoutCancel(ctx)) // requests outlive ctx
	defer cutOff(errStopping)
	under := &underWay{Handler: h}
	srv := &http.Server{
		Handler: under, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := under.shutdown(limit, srv)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests cut off that did not end in time", "drain", drain)
		cutOff(errStopping)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutOffLimit)
		defer cancel()
		if err = under.shutdown(end, srv); err != nil {
			err = srv.Close()
		}
	}
	if why := <-ended; !errors.Is(why, http.ErrServerClosed) {
		err = errors.Join(err, why)
	}
	if err != nil {
		return fmt.Errorf("stop HTTP: %w", err)
	}
	return nil
}

// underWay counts the requests under way. A server does not know those whose connections are not its own any more, as those of WebSockets.
type underWay struct {
	http.Handler
	wg sync.WaitGroup
}

func (u *underWay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.wg.Add(1) // never beside a Wait for none: that comes when the server takes no more
	defer u.wg.Done()
	u.Handler.ServeHTTP(w, r)
}

// shutdown ends srv and returns once no request is under way, or ctx ends.
func (u *underWay) shutdown(ctx context.Context, srv *http.Server) error {
	if err := srv.Shutdown(ctx); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		u.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
