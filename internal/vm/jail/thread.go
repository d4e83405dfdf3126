package jail

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnOwnThread runs f on a thread that runs nothing else before or after: what f changes of its thread, namespaces, root folder,
// privileges, is passed on to the processes that f starts, and ends with the thread.
func OnOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if unix.Gettid() != os.Getpid() {
			done <- f()
			return
		}
		// This is the program's first thread, which never ends and by which /proc/self looks at the program. While it is held
		// here, another goroutine gets another one.
		done <- OnOwnThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}
