package main

import (
	"os"

	"github.com/spf13/cobra"
)

// app is what the sub-commands share.
type app struct {
	stdin          *os.File
	stdout, stderr *os.File
	url, key       string // of the flags
	started        bool   // a sub-command's own code runs: what fails now is no matter of usage
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "wrenn",
		Short: "Run untrusted code in microVMs",
		Long: `wrenn creates sandboxes (microVMs), runs programs and copies files in them.

The service is found by --url, else WRENN_URL, else http://127.0.0.1:8000; its key by --key, else
WRENN_API_KEY, else the file key in the folder ~/.config/wrenn, else, for a service on this machine, the file dev-key
that "wrenn up" keeps in its data folder (WRENN_DATA, else /var/lib/wrenn).`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
		Args:             cobra.NoArgs,
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.url, "url", "", "URL of the service")
	root.PersistentFlags().StringVar(&a.key, "key", "", "API key (other users of this machine can see it; WRENN_API_KEY is safer)")
	root.AddCommand(
		newCreate(a), newLs(a), newInfo(a), newExec(a), newShell(a), newRunCode(a), newPs(a), newKill(a), newPort(a), newNet(a), newCp(a), newLogs(a), newEvents(a), newPause(a), newResume(a), newHibernate(a), newTimeout(a), newFork(a), newSnapshot(a), newRm(a), newTemplates(a),
		newPool(a), newUsage(a), newKey(a), newAudit(a), newWebhook(a), newHost(a),
		newUp(a), newDoctor(a), newInfra(a), newVersion(a), exitStatusTopic(),
	)
	return root
}
