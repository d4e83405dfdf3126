package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	headerLimit = 10 * time.Second
	writeLimit  = time.Minute
	endLimit    = time.Second // for answers under way at the end
)

// Listen opens the listener of a setting metrics_listen.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var open net.ListenConfig
	l, err := open.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, models.Errorf(models.Unavailable, "cannot listen on %s for metrics: %v", address, err).
			WithHint("another process may be using the port: choose one with --metrics-listen, or leave it out")
	}
	return l, nil
}

// Serve answers GET /metrics on l until ctx ends.
func (s *Set) Serve(ctx context.Context, l net.Listener, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.Handler())
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerLimit, WriteTimeout: writeLimit, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	log.Info("serving metrics", "url", fmt.Sprintf("http://%s/metrics", l.Addr()))
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		log.Error("metrics are served no more", "error", err)
		return
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	if srv.Shutdown(end) != nil {
		_ = srv.Close() // what is cut off is asked for again, elsewhere
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		log.Error("metrics ended otherwise than they were told to", "error", err)
	}
}
