package filesystem

import (
	"path/filepath"
	"strings"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// maxPath is PATH_MAX of limits.h; longer paths fail in the kernel anyway.
const maxPath = 4096

// Resolve returns the path that text means for u: absolute, below the home where it is relative
// or begins with "~/", and without "." and "..". An empty text means workdir, or without one the home.
// The kernel is not asked. The error is an *Error.
func Resolve(text string, u *user.User, workdir string) (string, error) {
	if text == "" {
		text = workdir
	}
	switch {
	case strings.Contains(text, "\x00"):
		return "", errorf(Invalid, "the path contains a NUL byte")
	case len(text) >= maxPath:
		return "", errorf(Invalid, "the path is longer than %d bytes", maxPath-1)
	case filepath.IsAbs(text):
		return filepath.Clean(text), nil
	}
	if rest, tilde := strings.CutPrefix(text, "~"); tilde {
		if rest != "" && rest[0] != '/' {
			return "", errorf(Invalid, "failed to expand path '%s' for user '%s': cannot expand user-specific home dir", text, u.Name)
		}
		text = rest
	}
	// A user without an absolute home has "/", as login(1) gives.
	return filepath.Join("/", u.Home, text), nil
}
