package vmtest

import (
	"bytes"
	"io"
	"net/http"
)

func (g *Guest) PostRaw(route string, body []byte) {
	r, err := http.NewRequest("POST", "http://envd"+route, bytes.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	resp, err := g.client().Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		g.t.Fatal(resp.Status, string(b))
	}
}

func (g *Guest) Download(route string) int64 {
	resp, err := g.client().Get("http://envd" + route)
	if err != nil {
		g.t.Fatal(err)
	}
	n, _ := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return n
}
