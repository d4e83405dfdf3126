package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	headerLimit = 10 * time.Second
	idleLimit   = 2 * time.Minute // of a connection between requests
	maxHeader   = 64 << 10        // bytes
	cutOffLimit = 5 * time.Second // for requests to end once they were cancelled
)

// Serve answers requests on l until ctx ends. Then it takes no new ones and waits for those under
// way, for drain at most; what still runs then is cut off.
func Serve(ctx context.Context, l net.Listener, h http.Handler, drain time.Duration, log *slog.Logger) error {
	base, cutOff := context.WithCancel(context.WithoutCancel(ctx)) // requests outlive ctx
	defer cutOff()
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
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
	err := srv.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests cut off that did not end in time", "drain", drain)
		cutOff()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutOffLimit)
		defer cancel()
		if err = srv.Shutdown(end); err != nil {
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
