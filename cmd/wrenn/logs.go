package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

func newLogs(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "logs SANDBOX", Short: "Print the last 512 KiB of the guest's console",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.sandboxIDs,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			text, err := client.Logs(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("read logs: %w", err)
			}
			if isTerminal(a.stdout) {
				text = plainText(text)
			}
			_, err = io.WriteString(a.stdout, text)
			return err
		},
	}
}

// plainText keeps lines and tabs and drops what a terminal would obey: the guest is not trusted.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}
