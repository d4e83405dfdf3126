package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// infraLimit bounds the end of the development databases.
const infraLimit = time.Minute

// infra is what `wrenn infra run` tells the other commands, in infra.json of the data folder.
type infra struct {
	vmm.Identity
	PostgresURL string
	RedisURL    string
}

func infraFile(data string) string { return filepath.Join(data, "infra.json") }

func newInfra(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "infra", Short: "Private Postgres and Redis for development, in the background", Args: cobra.NoArgs,
		Long: `Runs the databases that "wrenn up" uses, alone, so that the control plane and the host agent can be started
and stopped by hand. The data is that of "wrenn up" with the same --data.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var data string
	cmd.PersistentFlags().StringVar(&data, "data", "/var/lib/wrenn", "folder for the databases")
	sub := func(use, short string, run func(context.Context) error) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context())
		}})
	}
	sub("run", "Run them in the foreground until SIGTERM", func(ctx context.Context) error { return a.infraRun(ctx, data) })
	sub("start", "Start them in the background; does nothing when they run", func(ctx context.Context) error { return a.infraStart(ctx, data) })
	sub("stop", "End them; does nothing when they do not run", func(ctx context.Context) error { return a.infraStop(ctx, data) })
	sub("env", "Print how to reach them and the agent, for a shell to eval", func(context.Context) error { return a.infraEnv(data) })
	return cmd
}

// infraRun runs the databases until ctx ends. It writes a line once they can be used.
func (a *app) infraRun(ctx context.Context, data string) error {
	failed := make(chan error, 2)
	stack, err := devstack.Start(ctx, devstack.Options{
		Dir: filepath.Join(data, "databases"), Logger: slog.New(slog.NewTextHandler(a.stderr, nil)),
		Cache: devstack.DefaultCache(), Failed: func(err error) { failed <- err },
	})
	if err != nil {
		return err
	}
	self, err := vmm.Self()
	if err == nil {
		err = durable.WriteJSON(infraFile(data), infra{self, stack.PostgresURL, stack.RedisURL}, 0o600)
	}
	if err == nil {
		fmt.Fprintln(a.stdout, "ready")
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), infraLimit)
	defer cancel()
	return errors.Join(err, stack.Stop(end), os.Remove(infraFile(data)))
}

// infraStart starts infraRun in a session of its own and waits for its line.
func (a *app) infraStart(ctx context.Context, data string) error {
	if _, err := readInfra(data); err == nil {
		return nil
	}
	if err := os.MkdirAll(data, 0o711); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	logPath := filepath.Join(data, "infra.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, "infra", "run", "--data", data) //nolint:noctx // it outlives this command
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start the databases: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		_ = cmd.Wait() // what it said is in the log
		words, _ := os.ReadFile(logPath)
		return models.Errorf(models.Unavailable, "the databases did not start: %s", strings.TrimSpace(string(words)))
	}
	return cmd.Process.Release()
}

func (a *app) infraStop(ctx context.Context, data string) error {
	found, err := readInfra(data)
	if errors.Is(err, errNoInfra) {
		return nil
	}
	if err != nil {
		return err
	}
	process, err := vmm.Adopt(found.Identity)
	if err != nil {
		return fmt.Errorf("find the databases' process: %w", err)
	}
	defer process.Release()
	if err := process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("end the databases: %w", err)
	}
	select {
	case <-process.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(infraLimit):
		return models.Errorf(models.Deadline, "the databases do not end; their process is %d", found.PID)
	}
}

func (a *app) infraEnv(data string) error {
	found, err := readInfra(data)
	if err != nil {
		return err
	}
	data, err = filepath.Abs(data)
	if err != nil {
		return fmt.Errorf("find the data folder: %w", err)
	}
	for _, v := range []struct{ name, value string }{
		{"WRENN_DATABASE_URL", found.PostgresURL}, {"WRENN_REDIS_URL", found.RedisURL},
		{"WRENN_AGENT", "unix://" + filepath.Join(data, "agent.sock")},
	} {
		fmt.Fprintf(a.stdout, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
	}
	return nil
}

var errNoInfra = models.Errorf(models.Precondition, "the development databases do not run").WithHint("make dev-infra")

// readInfra returns the databases that run, or errNoInfra.
func readInfra(data string) (infra, error) {
	var found infra
	err := durable.ReadJSON(infraFile(data), &found)
	if errors.Is(err, fs.ErrNotExist) {
		return infra{}, errNoInfra
	}
	if err != nil {
		return infra{}, err
	}
	process, err := vmm.Adopt(found.Identity)
	if err != nil { // it was killed, and left its file
		return infra{}, errNoInfra
	}
	process.Release()
	return found, nil
}
