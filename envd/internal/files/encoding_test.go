package files

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"strings"
	"testing"
)

func zip(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func unzip(t testing.TB, text string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

func TestCompressedUpload(t *testing.T) {
	f := newFixture(t)
	text := strings.Repeat("text ", 100_000)
	resp, body := f.do("POST", at("file"), strings.NewReader(zip(t, text)), "Content-Type", "application/octet-stream", "Content-Encoding", "gzip")
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	f.content(f.home+"/file", text)
	form, kind := multipartBody(t, [3]string{"file", "part", text})
	plain, err := io.ReadAll(form)
	if err != nil {
		t.Fatal(err)
	}
	resp, body = f.do("POST", nil, strings.NewReader(zip(t, string(plain))), "Content-Type", kind, "Content-Encoding", "GZIP")
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	f.content(f.home+"/part", text)
	damaged := []byte(zip(t, text))
	damaged[len(damaged)-6] ^= 1 // the checksum
	for name, body := range map[string]string{"not gzip": text, "cut off": zip(t, text)[:100], "damaged": string(damaged)} {
		resp, body := f.do("POST", at("file"), strings.NewReader(body), "Content-Type", "application/octet-stream", "Content-Encoding", "gzip")
		f.refused(resp, body, 400, "")
		f.content(f.home+"/file", text)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	damaged = []byte(zip(t, string(plain)))
	damaged[len(damaged)-6] ^= 1
	resp, body = f.do("POST", nil, bytes.NewReader(damaged), "Content-Type", kind, "Content-Encoding", "gzip")
	f.refused(resp, body, 400, "checksum")
	f.clean()
}

func TestCompressedDownload(t *testing.T) {
	f := newFixture(t)
	for _, text := range []string{"", "x", strings.Repeat("text ", 100_000)} {
		f.mustPut("file", text)
		resp, body := f.get("file", "Accept-Encoding", "gzip, deflate, br")
		if resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("Vary") != "Accept-Encoding" || unzip(t, body) != text {
			t.Errorf("%v, %d bytes", resp.Header, len(body))
		}
	}
	resp, body := f.do("HEAD", at("file"), nil, "Accept-Encoding", "gzip")
	if resp.Header.Get("Content-Encoding") != "gzip" || body != "" {
		t.Errorf("%v", resp.Header)
	}
	resp, body = f.get("file", "Accept-Encoding", "gzip", "Range", "bytes=5-8")
	if resp.StatusCode != 206 || body != "text" || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
	version, err := os.ReadFile("/proc/version")
	if _, body = f.get("/proc/version", "Accept-Encoding", "gzip"); err != nil || unzip(t, body) != string(version) {
		t.Errorf("%q, %v", body, err)
	}
	resp, body = f.get("missing", "Accept-Encoding", "gzip")
	f.refused(resp, body, 404, "does not exist")
	for _, accept := range []string{"identity;q=0", "br, *;q=0", "gzip;q=0, identity;q=0"} {
		resp, body := f.get("file", "Accept-Encoding", accept)
		f.refused(resp, body, 406, "no acceptable encoding found")
	}
	resp, body = f.get("file", "Accept-Encoding", "gzip, identity;q=0", "Range", "bytes=0-1")
	f.refused(resp, body, 406, "identity encoding not acceptable")
}

func TestCoding(t *testing.T) {
	for header, want := range map[string]string{
		"": "identity", "gzip": "gzip", "GZip ; Q=0.5": "gzip", "br": "identity", "*": "identity", "identity": "identity",
		"identity;q=0.5, gzip": "gzip", "identity, gzip;q=0.5": "identity", "gzip;q=0": "identity", "gzip;q=0, *": "identity",
		"identity;q=0": "", "identity;q=0, *": "gzip", "identity;q=0, gzip;q=0.1": "gzip", "*;q=0": "", "*;q=0, identity;q=0.1": "identity",
		"*;q=0, gzip": "gzip", "gzip;q=x": "gzip", "gzip;q=7": "gzip", ",,": "identity", "gzip;q=0, identity;q=0, *": "",
	} {
		if got := parseAccept(header).coding(); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}
