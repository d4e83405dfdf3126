package session_test

import (
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
)

// TestGrants: a grant is worth something from when a token is set until another one is, or it is forgotten; the zero one never is.
func TestGrants(t *testing.T) {
	s := session.New("")
	wantNobody := func(when string) {
		t.Helper()
		if _, authorized := s.Authorize(""); authorized || s.Valid(0) || s.HasToken() {
			t.Errorf("%s somebody is authorized", when)
		}
	}
	wantNobody("before there is a token")
	var grants []session.Grant
	for _, token := range []string{"first", "second", "first"} {
		s.Update(session.Defaults{}, token)
		grant, authorized := s.Authorize(token)
		if !authorized || !s.Valid(grant) || s.Valid(0) {
			t.Errorf("%s: authorized %v, its grant %d is worth %v", token, authorized, grant, s.Valid(grant))
		}
		for _, old := range grants {
			if s.Valid(old) {
				t.Errorf("the grant %d of an earlier token is worth something", old)
			}
		}
		grants = append(grants, grant)
		s.Update(session.Defaults{}, "") // keeps the token
		if !s.Valid(grant) {
			t.Error("the grant is worth nothing after an update without a token")
		}
	}
	s.Forget()
	wantNobody("after it was forgotten")
	for _, old := range grants {
		if s.Valid(old) {
			t.Errorf("the grant %d is worth something after the token was forgotten", old)
		}
	}
}
