package db_test

import (
	"errors"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestClaimIsAFence: an attempt that has lost its claim inserts nothing and answers nothing, and its successor knows what it had inserted.
func TestClaimIsAFence(t *testing.T) {
	s, account, _ := open(t)
	n := db.NewClaim{Account: account, Key: "k", Fingerprint: [32]byte{1}, Attempt: "req-a", Lease: time.Millisecond, Keep: time.Hour}
	first, err := s.Claim(t.Context(), n)
	if err != nil || first.Claim == nil || first.Claim.CutOff {
		t.Fatalf("%+v, %v", first, err)
	}
	insert := func(c *db.Claim) (models.Sandbox, error) {
		return s.CreateSandbox(t.Context(), db.NewSandbox{
			ID: id.NewSandbox(), Account: account, Template: "minimal", Within: time.Minute, By: db.By{Actor: "key-00000001", Operation: "req-1", Claim: c},
		}, onFirst)
	}
	made, err := insert(first.Claim)
	if err != nil {
		t.Fatal(err)
	}
	n.Attempt, n.Lease = "req-b", time.Hour
	var second db.Claimed
	for end := time.Now().Add(time.Minute); second.Claim == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if second, err = s.Claim(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if c := second.Claim; c == nil || !c.CutOff || len(c.Targets) != 1 || c.Targets[0] != string(made.ID) {
		t.Fatalf("the second attempt has %+v", second.Claim)
	}
	if _, err := insert(first.Claim); !errors.Is(err, db.ErrClaimLost) {
		t.Errorf("the first attempt inserts once more: %v", err)
	}
	if err := s.KeepAnswer(t.Context(), first.Claim, db.Answer{Status: 500}); err != nil {
		t.Error(err)
	}
	n.Attempt = "req-c"
	if third, err := s.Claim(t.Context(), n); err != nil || third.Claim != nil || third.Answer != nil || third.Misuse {
		t.Errorf("while the second is under way: %+v, %v", third, err)
	}
	if err := s.KeepAnswer(t.Context(), second.Claim, db.Answer{Status: 201, Body: []byte("x"), Headers: map[string]string{"Location": "/y"}}); err != nil {
		t.Error(err)
	}
	third, err := s.Claim(t.Context(), n)
	if err != nil || third.Answer == nil || third.Answer.Status != 201 || string(third.Answer.Body) != "x" || third.Answer.Headers["Location"] != "/y" {
		t.Errorf("afterwards: %+v, %v", third.Answer, err)
	}
	if all, err := s.List(t.Context(), db.Filter{Account: account, States: []models.State{models.Starting}, Limit: 9}); err != nil || len(all) != 1 {
		t.Errorf("there are %d sandboxes, %v", len(all), err)
	}
}
