package s3_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object/objecttest"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3/s3test"
)

func open(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	o := s3test.ForTest(t).Options()
	o.Prefix = "some/prefix/"
	objecttest.Run(t, open(t, o))
}

// What is set up wrongly says so.
func TestSettings(t *testing.T) {
	server := s3test.ForTest(t)
	for name, spoil := range map[string]func(*s3.Options){
		"bucket": func(o *s3.Options) { o.Bucket = "another" },
		"key":    func(o *s3.Options) { o.AccessKey = "another" },
		"secret": func(o *s3.Options) { o.SecretKey = "another" },
	} {
		o := server.Options()
		spoil(&o)
		if err := open(t, o).Put(t.Context(), "key", []byte("x")); err == nil || models.CodeOf(err) != models.Precondition {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if _, err := s3.New(s3.Options{Endpoint: "http://with a scheme"}); models.CodeOf(err) != models.Invalid {
		t.Errorf("a bad endpoint: %v", err)
	}
}

// A server that is gone is Unavailable, one that says nothing Deadline; and when it is back all goes on.
func TestServerIsGone(t *testing.T) {
	server := s3test.ForTest(t)
	s := open(t, server.Options())
	if err := s.Put(t.Context(), "key", []byte("x")); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if _, err := s.Get(t.Context(), "key", 9); models.CodeOf(err) != models.Unavailable {
		t.Errorf("gone: %v", err)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "key", 9); err != nil || string(got) != "x" {
		t.Errorf("back: %q %v", got, err)
	}
}

func TestServerIsSilent(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := open(t, s3.Options{Endpoint: l.Addr().String(), Plain: true, Region: "r", Bucket: "bucket", Timeout: 100 * time.Millisecond})
	if err := s.Put(t.Context(), "key", nil); models.CodeOf(err) != models.Deadline {
		t.Errorf("its own time: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "key", nil); models.CodeOf(err) != models.Unavailable {
		t.Errorf("the caller's end: %v", err)
	}
}
