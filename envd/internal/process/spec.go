package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// DefaultPath is where programs are looked up for root, unless something else sets PATH: Debian's for root, which holds
// for users too what a login shell would give them.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultLang is the locale that every Debian has: without one, programs take text for ASCII.
const defaultLang = "C.UTF-8"

// defaultPath puts first where pip and npm install a user's own programs. Root's own folder is not
// searched: what lies there could be run by mistake with all rights.
func defaultPath(u *user.User) string {
	if u.UID == 0 || u.Home == "" {
		return DefaultPath
	}
	return filepath.Join(u.Home, ".local/bin") + ":" + DefaultPath
}

// Spec says what to run.
type Spec struct {
	Cmd  string // a path, or a name that is looked up in PATH of the process's environment
	Args []string
	Env  map[string]string // wins over BaseEnv
	// BaseEnv is the environment of every process of the sandbox. It wins over what comes from User.
	BaseEnv map[string]string
	// Cwd is absolute or relative to the user's home. Empty: Workdir, else the home, else "/".
	Cwd     string
	Workdir string
	User    *user.User
	Tag     string
	// Terminal is the size of the terminal that the process runs on; nil: it has pipes.
	Terminal *Size
	Stdin    bool          // whether there will be input; otherwise the process reads end of file
	Timeout  time.Duration // 0: none; when it runs out the process and all that it started are killed
}

// environ returns the environment, sorted, or an Invalid error.
func (s *Spec) environ() ([]string, error) {
	vars := map[string]string{
		"PATH": defaultPath(s.User), "HOME": s.User.Home, "USER": s.User.Name,
		"LOGNAME": s.User.Name, "SHELL": s.User.Shell, "LANG": defaultLang,
	}
	for _, layer := range []map[string]string{s.BaseEnv, s.Env} {
		for name, value := range layer {
			if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
				return nil, errorf(Invalid, "invalid environment variable %q", name)
			}
			vars[name] = value
		}
	}
	env := make([]string, 0, len(vars))
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env, nil
}

// directory returns the absolute working directory, or an Invalid error if the one asked for is none.
func (s *Spec) directory() (string, error) {
	dir := s.Cwd
	if dir == "" {
		dir = s.Workdir
	}
	if dir == "" {
		if isDirectory(s.User.Home) {
			return s.User.Home, nil
		}
		return "/", nil
	}
	if dir == "~" || strings.HasPrefix(dir, "~/") {
		dir = filepath.Join(s.User.Home, dir[1:])
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(s.User.Home, dir)
	}
	if strings.Contains(dir, "\x00") || !isDirectory(dir) {
		return "", errorf(Invalid, "the working directory %q does not exist", dir)
	}
	return dir, nil
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// candidates returns the files that cmd may stand for, in the order to try them, as
// execvp(3) finds them.
func candidates(cmd, dir string, env []string) ([]string, error) {
	if strings.Contains(cmd, "/") {
		path := cmd
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, errorf(Invalid, "command not found: %s", cmd)
		}
		return []string{path}, nil
	}
	var found []string
	for _, folder := range filepath.SplitList(variable(env, "PATH")) {
		if !filepath.IsAbs(folder) {
			folder = filepath.Join(dir, folder)
		}
		path := filepath.Join(folder, cmd)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		return nil, errorf(Invalid, "command not found: %s", cmd)
	}
	return found, nil
}

func variable(env []string, name string) string {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// command is a prepared Spec: everything but which of paths it is.
type command struct {
	spec  *Spec
	paths []string
	env   []string
	dir   string
}

// prepare checks the spec against the guest's files.
func (s *Spec) prepare() (*command, error) {
	if s.Cmd == "" {
		return nil, errorf(Invalid, "no command was given")
	}
	if s.Terminal != nil {
		if err := s.Terminal.check(); err != nil {
			return nil, err
		}
	}
	if strings.Contains(s.Cmd, "\x00") || slices.ContainsFunc(s.Args, func(a string) bool { return strings.Contains(a, "\x00") }) {
		return nil, errorf(Invalid, "the command or an argument contains a NUL byte")
	}
	env, err := s.environ()
	if err != nil {
		return nil, err
	}
	dir, err := s.directory()
	if err != nil {
		return nil, err
	}
	paths, err := candidates(s.Cmd, dir, env)
	if err != nil {
		return nil, err
	}
	return &command{spec: s, paths: paths, env: env, dir: dir}, nil
}

// build returns the exec.Cmd for one path. The process gets a session, and so a process
// group, of its own, whose controlling terminal is its standard input if it has one, and the user's ids; niceness and oom_score_adj stay envd's own, which
// the kernel made 0 (PID 1 is never chosen by the OOM killer and needs no other).
func (c *command) build(path string) *exec.Cmd {
	cmd := &exec.Cmd{
		Path: path, Args: append([]string{c.spec.Cmd}, c.spec.Args...), Env: c.env, Dir: c.dir,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: c.spec.Terminal != nil, Ctty: 0},
	}
	if os.Geteuid() == 0 { // elsewhere there is only one user to be, see checkUser
		u := c.spec.User
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	return cmd
}

// checkUser refuses another user than envd's own where envd is not root, as it may be
// in development.
func checkUser(u *user.User) error {
	if euid := os.Geteuid(); euid != 0 && uint32(euid) != u.UID {
		return errorf(Invalid, "envd runs without root and cannot become user %q", u.Name)
	}
	return nil
}

// startError turns the errno of a failed start into an error for the caller. What is not
// the caller's fault is returned as it is.
func (c *command) startError(err error) error {
	if errors.Is(err, reap.ErrClosed) {
		return errShutdown
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case syscall.EACCES, syscall.EPERM:
		return errorf(Invalid, "permission denied: cannot run %s in %s as user %s", c.spec.Cmd, c.dir, c.spec.User.Name)
	case syscall.ENOENT:
		return errorf(Invalid, "cannot run %s: its interpreter or its working directory does not exist", c.spec.Cmd)
	case syscall.E2BIG:
		return errorf(Invalid, "cannot run %s: the arguments and the environment are too long", c.spec.Cmd)
	case syscall.ENOEXEC:
		return errorf(Invalid, "cannot run %s: neither a program for this machine nor a script with a #! line", c.spec.Cmd)
	case syscall.ENOTDIR, syscall.ELOOP, syscall.EISDIR, syscall.ETXTBSY, syscall.ENAMETOOLONG, syscall.EINVAL:
		return errorf(Invalid, "cannot run %s: %v", c.spec.Cmd, errno)
	case syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC:
		return errorf(Exhausted, "cannot run %s: the sandbox has no more room for processes (%v)", c.spec.Cmd, errno)
	default:
		return err
	}
}
