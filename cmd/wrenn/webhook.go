package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newWebhook(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "webhook", Short: "Have events sent to a URL, and see whether they arrive",
		Long: `A webhook is a URL to which events of the account's sandboxes are posted, signed with a secret that its receiver knows (Standard Webhooks). What is not taken is
sent again for 24 hours; a webhook to which nothing could be delivered for as long is disabled.`,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWebhookCreate(a), newWebhookLs(a), newWebhookSwitch(a, "enable", true), newWebhookSwitch(a, "disable", false), newWebhookRotate(a), newWebhookPing(a), newWebhookDeliveries(a), newWebhookRm(a))
	return cmd
}

func newWebhookCreate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create URL", Short: "Have events sent to a URL from now on; print the webhook's id, and its secret, once", Args: cobra.ExactArgs(1),
		Example: "  wrenn webhook create https://example.com/wrenn --events sandbox.running,sandbox.stopped",
	}
	events := cmd.Flags().StringSlice("events", nil, "types of events, such as sandbox.running (default: all)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return printMade(a, *asJSON, "make the webhook", idAndSecret, func(c *wrenn.Client) (*wrenn.Webhook, error) { return c.CreateWebhook(cmd.Context(), args[0], *events) })
	}
	return cmd
}

func newWebhookRotate(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "rotate WEBHOOK-ID", Short: "Give a webhook another secret, and print it, once", Args: cobra.ExactArgs(1)}
	grace := cmd.Flags().Duration("grace", 0, "how long messages are signed with the secret before, too, up to 168h")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return printMade(a, *asJSON, "rotate "+args[0], idAndSecret, func(c *wrenn.Client) (*wrenn.Webhook, error) { return c.RotateWebhook(cmd.Context(), args[0], *grace) })
	}
	return cmd
}

func idAndSecret(w *wrenn.Webhook) []string { return []string{w.ID, w.Secret} }

func newWebhookLs(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List webhooks, newest first, and whether they work", Args: cobra.NoArgs}
	return listing(a, cmd, "webhooks", (*wrenn.Client).Webhooks, []string{"ID", "STATE", "URL", "EVENTS", "AGE", "FAILURE"}, webhookRow)
}

func webhookRow(w wrenn.Webhook) []string {
	events := "all"
	if len(w.Events) > 0 {
		events = strings.Join(w.Events, ",")
	}
	return []string{w.ID, w.State, w.URL, events, age(w.CreatedAt, time.Now()), w.Failure}
}

// newWebhookSwitch is the command that enables or disables webhooks.
func newWebhookSwitch(a *app, verb string, on bool) *cobra.Command {
	short := "Send nothing to webhooks any more, until they are enabled"
	if on {
		short = "Send to webhooks again, from now on"
	}
	return &cobra.Command{
		Use: verb + " WEBHOOK-ID...", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.each(verb, ids, func(id string) error {
				_, err := client.ChangeWebhook(cmd.Context(), id, wrenn.WebhookChange{Enabled: &on})
				return err
			})
		},
	}
}

func newWebhookPing(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ping WEBHOOK-ID", Short: "Have a message sent that is about no event, and print its id", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			d, err := client.PingWebhook(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("ping %s: %w", args[0], err)
			}
			_, err = fmt.Fprintln(a.stdout, printable(d.ID))
			return err
		},
	}
}

func newWebhookDeliveries(a *app) *cobra.Command {
	var again string
	cmd := &cobra.Command{
		Use: "deliveries WEBHOOK-ID", Short: "List what is, was or will be sent to a webhook, newest first, and what came of it", Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&again, "retry", "", "have the delivery of this id sent again before")
	quiet := cmd.Flags().BoolP("quiet", "q", false, "print ids only")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkForm(*quiet, *asJSON); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		if again != "" {
			if _, err := client.RetryDelivery(cmd.Context(), args[0], again); err != nil {
				return fmt.Errorf("send %s again: %w", again, err)
			}
		}
		list, err := gather(client.Deliveries(cmd.Context(), args[0]))
		if err != nil {
			return fmt.Errorf("list deliveries of %s: %w", args[0], err)
		}
		header := []string{"ID", "TYPE", "SANDBOX", "STATE", "ATTEMPTS", "STATUS", "LAST", "NEXT", "ERROR"}
		return printList(a.stdout, list, *quiet, *asJSON, header, deliveryRow)
	}
	return cmd
}

func deliveryRow(d wrenn.Delivery) []string {
	status := ""
	if d.Status != 0 {
		status = strconv.Itoa(d.Status)
	}
	return []string{d.ID, d.Type, d.SandboxID, d.State, strconv.Itoa(d.Attempts), status, at(d.LastAttemptAt), at(d.NextAttemptAt), d.Error}
}

func newWebhookRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm WEBHOOK-ID...", Short: "Delete webhooks, and what was still to be delivered", Args: cobra.MinimumNArgs(1),
		Long: "Deletes webhooks and prints the id of each. What fails does not keep the others; the exit status is that of the first failure.",
		RunE: func(cmd *cobra.Command, ids []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.each("delete", ids, func(id string) error { return client.DeleteWebhook(cmd.Context(), id) })
		},
	}
}
