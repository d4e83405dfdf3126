package vm

import (
	"context"
	"time"
)

// afterAsk is how long a guest that could not be asked may still take to end. It is not zero, as
// a guest that obeys may cut the connection before its answer arrived.
const afterAsk = time.Second

// StopOrKill is Running.Stop for every driver: it calls ask, if there is one, waits for done until ctx ends, and then
// calls kill. A guest that cannot be asked is waited for one second only. Its ask may rely on its ctx
// ending when done is closed.
func StopOrKill(ctx context.Context, ask func(context.Context) error, done <-chan struct{}, kill func() (Exit, error)) (Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if ask != nil {
		if err := askUntil(ctx, ask, done); err != nil {
			ctx, cancel = context.WithTimeout(ctx, afterAsk)
			defer cancel()
		}
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return kill() // succeeds at once when the VMM is gone
}

// askUntil calls ask with a context that also ends when done is closed.
func askUntil(ctx context.Context, ask func(context.Context) error, done <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-watched }()
	return ask(ctx)
}
