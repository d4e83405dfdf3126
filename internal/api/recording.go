package api

import (
	"bytes"
	"net/http"

	"github.com/wrenn-sandbox/wrenn/db"
)

// recording holds an answer back until it is kept.
type recording struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (r *recording) WriteHeader(status int) { r.status = status }

// Write implements http.ResponseWriter. It never fails.
func (r *recording) Write(b []byte) (int, error) { return r.body.Write(b) }

// Unwrap is for http.ResponseController.
func (r *recording) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// answer is what is kept: that it was given, where it is too large or nobody is to store it, as with secrets.
func (r *recording) answer() db.Answer {
	if r.body.Len() > maxKept || r.Header().Get("Cache-Control") == noStore && lasting(r.status) && r.status < http.StatusBadRequest {
		return db.Answer{}
	}
	a := db.Answer{Status: r.status, Body: r.body.Bytes(), Headers: map[string]string{}}
	for _, name := range keptHeaders {
		if value := r.Header().Get(name); value != "" {
			a.Headers[name] = value
		}
	}
	return a
}

func (r *recording) send() {
	r.ResponseWriter.WriteHeader(r.status)
	_, _ = r.ResponseWriter.Write(r.body.Bytes()) // a client that has gone needs no answer
}
