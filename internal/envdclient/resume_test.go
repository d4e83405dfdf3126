package envdclient

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const allSteps = `{"name":"clock","ok":true},{"name":"randomness","ok":true},{"name":"token","ok":true}`

// A certificate counts only where all that was asked for was done and nothing failed.
func TestResumeCertificate(t *testing.T) {
	in := Resume{Init: Init{Token: "new", Hostname: "sb-1"}}
	for name, c := range map[string]struct{ answer, want string }{
		"whole":          {`{"ok":true,"steps":[` + allSteps + `,{"name":"hostname","ok":true,"duration_us":1500}]}`, ""},
		"failed":         {`{"ok":false,"steps":[{"name":"clock","ok":false,"reason":"no\nclock"}]}`, "clock: no clock"},
		"failed, hidden": {`{"ok":true,"steps":[` + allSteps + `,{"name":"hostname","ok":true},{"name":"hook:x","ok":false,"reason":"r"}]}`, "hook:x: r"},
		"missing":        {`{"ok":true,"steps":[` + allSteps + `]}`, "has not renewed hostname"},
		"kept":           {`{"ok":true,"steps":[` + allSteps + `,{"name":"hostname","ok":true,"kept":true}]}`, "has not renewed hostname"},
		"nothing":        {`{}`, "has not renewed"},
		"no JSON":        {`steps`, "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			client := hostile(t, say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(c.answer), c.answer)))
			_, err := client.Resume(t.Context(), in)
			var coded *models.Error
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want == "" && client.currentToken() != "new":
				t.Error("the client goes on with the old token")
			case c.want != "" && (!errors.As(err, &coded) || coded.Code != models.Unavailable || !strings.Contains(coded.Message, c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			case c.want != "" && client.currentToken() != "secret":
				t.Error("the client took over a token that the guest may not have")
			}
		})
	}
}
