package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func newTemplates(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "templates", Short: "List what sandboxes can be made from", Args: cobra.NoArgs}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		list, err := client.Templates(cmd.Context())
		if err != nil {
			return fmt.Errorf("list templates: %w", err)
		}
		if *asJSON {
			return printJSON(a.stdout, list)
		}
		rows := make([][]string, len(list))
		for i, t := range list {
			rows[i] = []string{t.Name, strconv.Itoa(t.DefaultVCPUs), strconv.Itoa(t.DefaultMemoryMiB), strconv.Itoa(t.DiskMiB), t.Description}
		}
		return printTable(a.stdout, []string{"NAME", "VCPUS", "MEMORY MIB", "DISK MIB", "DESCRIPTION"}, rows)
	}
	return cmd
}
