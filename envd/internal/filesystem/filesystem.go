// Package filesystem is what envd does with files other than carry their contents: it describes,
// lists, makes, moves, removes and watches them.
//
// envd is root and does not check permissions: whoever holds the sandbox's token may also run
// any program as root. The user that a request names says where relative paths begin and to whom what
// is made belongs.
//
// A guest's file system is written by somebody else, and changes while it is looked at. So
// whatever is collected here has a limit, and what vanishes meanwhile is not an error.
package filesystem

import (
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// Service is the file system as seen with an account database, and the watchers that clients ask
// for events. Its methods may be called at the same time.
type Service struct {
	users    user.Database
	watchers watchers
}

// New returns a service; Close ends its watchers.
func New(users user.Database) *Service {
	return &Service{users: users, watchers: watchers{byID: map[string]*watcher{}}}
}

// Close ends every watcher and waits for it.
func (s *Service) Close() { s.watchers.close() }
