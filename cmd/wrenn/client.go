package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// defaultData is the data folder of `wrenn up` run by root.
const defaultData = "/var/lib/wrenn"

// devKeyFile is the file in the data folder with the key that `wrenn up` made.
const devKeyFile = "dev-key"

// client returns a client of the service that flags, environment and files name.
func (a *app) client() (*wrenn.Client, error) {
	service := firstOf(a.url, os.Getenv("WRENN_URL"), wrenn.DefaultBaseURL)
	key, err := a.findKey(service)
	if err != nil {
		return nil, err
	}
	return wrenn.NewClient(wrenn.Options{BaseURL: service, APIKey: key, UserAgent: "wrenn-cli/" + version()})
}

func (a *app) findKey(service string) (string, error) {
	if key := firstOf(a.key, os.Getenv("WRENN_API_KEY")); key != "" {
		return key, nil
	}
	var files []string
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "wrenn", "key"))
	}
	if onThisMachine(service) {
		files = append(files, filepath.Join(firstOf(os.Getenv("WRENN_DATA"), defaultData), devKeyFile))
	}
	for _, file := range files {
		key, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(key)) != "" {
			return strings.TrimSpace(string(key)), nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return "", models.Errorf(models.Invalid, "the API key in %s cannot be read: %v", file, err)
		}
	}
	return "", models.Errorf(models.Unauthenticated, "there is no API key").
		WithHint("set WRENN_API_KEY, or start a service of your own with: wrenn up")
}

// onThisMachine keeps the development key from being sent elsewhere.
func onThisMachine(service string) bool {
	u, err := url.Parse(service)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func firstOf(candidates ...string) string {
	for _, c := range candidates {
		if c != "" {
			return c
		}
	}
	return ""
}

// sandboxIDs completes the ids of the sandboxes that exist.
func (a *app) sandboxIDs(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, prefix, func(ctx context.Context, c *wrenn.Client) ([]string, error) {
		page, err := c.ListSandboxes(ctx, wrenn.ListOptions{Limit: 200})
		if err != nil {
			return nil, err
		}
		ids := make([]string, len(page.Items))
		for i, s := range page.Items {
			ids[i] = cobra.CompletionWithDesc(s.ID, printable(s.Template+" "+s.Name))
		}
		return ids, nil
	})
}

// templateNames completes the names of templates.
func (a *app) templateNames(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, prefix, func(ctx context.Context, c *wrenn.Client) ([]string, error) {
		templates, err := c.Templates(ctx)
		if err != nil {
			return nil, err
		}
		names := make([]string, len(templates))
		for i, t := range templates {
			names[i] = t.Name
		}
		return names, nil
	})
}

// complete asks the service, for as long as somebody waits who has pressed a key.
func (a *app) complete(cmd *cobra.Command, prefix string, ask func(context.Context, *wrenn.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := ask(ctx, client)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var fitting []string
	for _, s := range all {
		if strings.HasPrefix(s, prefix) {
			fitting = append(fitting, s)
		}
	}
	return fitting, cobra.ShellCompDirectiveNoFileComp
}
