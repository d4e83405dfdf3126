package filesystem

import "strings"

// Files that are being written have temporary names until they are complete. A watch reports such
// a file when it gets its real name, as if it had been written there.
const (
	// TemporaryNew begins the names of those that nothing is to be replaced by.
	TemporaryNew = ".wrenn-new-"
	// TemporaryReplacement begins the names of those that will replace a file.
	TemporaryReplacement = ".wrenn-replace-"
)

func isTemporary(name string) bool {
	return strings.HasPrefix(name, TemporaryNew) || strings.HasPrefix(name, TemporaryReplacement)
}
