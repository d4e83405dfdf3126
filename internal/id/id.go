// Package id makes and parses the identifiers that users and hosts see.
//
// Each kind is a distinct type, so that a host's id cannot be passed where a
// sandbox's is meant. Text from outside becomes an id only through the Parse
// functions; an id is therefore always safe in a path, a device name and a URL.
package id

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
)

// Sandbox identifies a sandbox: "sb-" and 8 lower-case hexadecimal digits.
type Sandbox string

// Host identifies a host: "host-" and 8 lower-case hexadecimal digits.
type Host string

// Account identifies an account: "acc-" and 8 lower-case hexadecimal digits.
type Account string

// Key identifies an API key (it is not the key itself): "key-" and 8 lower-case hexadecimal digits.
type Key string

// HostToken identifies a token with which a host may join (it is not the token itself): "token-" and the first 16 digits of the hash that is kept of it.
type HostToken string

// Request identifies one API request: "req-" and 16 lower-case hexadecimal digits.
type Request string

// Context identifies an interpreter in a sandbox: "ctx-" and 8 lower-case hexadecimal digits.
type Context string

// Snapshot identifies a snapshot that was made on request: "snap-" and 8 lower-case hexadecimal digits.
type Snapshot string

// Webhook identifies a webhook: "wh-" and 8 lower-case hexadecimal digits.
type Webhook string

// Message identifies what is sent to a webhook, each time that it is sent: "msg-" and 16 lower-case hexadecimal digits.
type Message string

// Replica identifies a process of the control plane: "rep-" and 16 lower-case hexadecimal digits.
type Replica string

// Terminal identifies a terminal in a sandbox: "term-" and 16 lower-case hexadecimal digits.
type Terminal string

var (
	sandboxForm  = regexp.MustCompile(`^sb-[0-9a-f]{8}$`)
	hostForm     = regexp.MustCompile(`^host-[0-9a-f]{8}$`)
	contextForm  = regexp.MustCompile(`^ctx-[0-9a-f]{8}$`)
	terminalForm = regexp.MustCompile(`^term-[0-9a-f]{16}$`)
	snapshotForm = regexp.MustCompile(`^snap-[0-9a-f]{8}$`)
	keyForm      = regexp.MustCompile(`^key-[0-9a-f]{8}$`)
	webhookForm  = regexp.MustCompile(`^wh-[0-9a-f]{8}$`)
	messageForm  = regexp.MustCompile(`^msg-[0-9a-f]{16}$`)
	tokenForm    = regexp.MustCompile(`^token-[0-9a-f]{16}$`)
)

// NewSandbox returns a random sandbox id. With 32 bits of randomness two can be
// equal: the store that keeps them refuses a duplicate and the caller draws again.
func NewSandbox() Sandbox { return Sandbox("sb-" + random(4)) }

// NewHost returns a random host id.
func NewHost() Host { return Host("host-" + random(4)) }

// NewAccount returns a random account id.
func NewAccount() Account { return Account("acc-" + random(4)) }

// NewKey returns a random key id.
func NewKey() Key { return Key("key-" + random(4)) }

// NewSnapshot returns a random snapshot id, with which it is as with those of sandboxes.
func NewSnapshot() Snapshot { return Snapshot("snap-" + random(4)) }

// NewContext returns a random context id.
func NewContext() Context { return Context("ctx-" + random(4)) }

// NewRequest returns a random request id.
func NewRequest() Request { return Request("req-" + random(8)) }

// NewWebhook returns a random webhook id.
func NewWebhook() Webhook { return Webhook("wh-" + random(4)) }

// NewMessage returns a random message id.
func NewMessage() Message { return Message("msg-" + random(8)) }

// NewReplica returns a random replica id.
func NewReplica() Replica { return Replica("rep-" + random(8)) }

// NewTerminal returns a random terminal id.
func NewTerminal() Terminal { return Terminal("term-" + random(8)) }

// ParseSandbox checks the form of a sandbox id.
func ParseSandbox(s string) (Sandbox, error) {
	if !sandboxForm.MatchString(s) {
		return "", fmt.Errorf("sandbox id %q is not of the form sb-xxxxxxxx", s)
	}
	return Sandbox(s), nil
}

// ParseHost checks the form of a host id.
func ParseHost(s string) (Host, error) {
	if !hostForm.MatchString(s) {
		return "", fmt.Errorf("host id %q is not of the form host-xxxxxxxx", s)
	}
	return Host(s), nil
}

// ParseContext checks the form of a context id.
func ParseContext(s string) (Context, error) {
	if !contextForm.MatchString(s) {
		return "", fmt.Errorf("context id %q is not of the form ctx-xxxxxxxx", s)
	}
	return Context(s), nil
}

// ParseSnapshot checks the form of a snapshot id.
func ParseSnapshot(s string) (Snapshot, error) {
	if !snapshotForm.MatchString(s) {
		return "", fmt.Errorf("snapshot id %q is not of the form snap-xxxxxxxx", s)
	}
	return Snapshot(s), nil
}

// ParseTerminal checks the form of a terminal id.
func ParseTerminal(s string) (Terminal, error) {
	if !terminalForm.MatchString(s) {
		return "", fmt.Errorf("terminal id %q is not of the form term-xxxxxxxxxxxxxxxx", s)
	}
	return Terminal(s), nil
}

// ParseKey checks the form of a key id.
func ParseKey(s string) (Key, error) {
	if !keyForm.MatchString(s) {
		return "", fmt.Errorf("key id %q is not of the form key-xxxxxxxx", s)
	}
	return Key(s), nil
}

// ParseWebhook checks the form of a webhook id.
func ParseWebhook(s string) (Webhook, error) {
	if !webhookForm.MatchString(s) {
		return "", fmt.Errorf("webhook id %q is not of the form wh-xxxxxxxx", s)
	}
	return Webhook(s), nil
}

// ParseMessage checks the form of a message id.
func ParseMessage(s string) (Message, error) {
	if !messageForm.MatchString(s) {
		return "", fmt.Errorf("message id %q is not of the form msg-xxxxxxxxxxxxxxxx", s)
	}
	return Message(s), nil
}

// ParseHostToken checks the form of the id of a host's token. What is none is not repeated: it may be the token itself.
func ParseHostToken(s string) (HostToken, error) {
	if !tokenForm.MatchString(s) {
		return "", errors.New("the id of a token is of the form token-xxxxxxxxxxxxxxxx, and is not the token itself")
	}
	return HostToken(s), nil
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand aborts the program when the system has no randomness
	return hex.EncodeToString(b)
}
