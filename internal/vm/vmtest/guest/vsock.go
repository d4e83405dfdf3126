package main

import (
	"fmt"

	"github.com/mdlayher/vsock"

	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// serveVsock serves every port until one fails.
func serveVsock(app guestapp.App) error {
	ports := guestapp.Ports()
	failed := make(chan error, len(ports))
	for _, port := range ports {
		listener, err := vsock.Listen(port, nil)
		if err != nil {
			return fmt.Errorf("listen on vsock port %d: %w", port, err)
		}
		go func() { failed <- app.Serve(listener, port) }()
	}
	return <-failed
}
