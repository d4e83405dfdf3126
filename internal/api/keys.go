package api

import (
	"context"
	"net/http"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// noStore is the Cache-Control of answers that hold secrets, or that change.
const noStore = "no-store"

// maxKeyLife is the longest that a key can be made to be valid; it may be so for ever.
const maxKeyLife = 10 * 365 * 24 * time.Hour

// keyView is the schema ApiKey.
type keyView struct {
	ID         id.Key   `json:"id"`
	Name       string   `json:"name"`
	Prefix     string   `json:"prefix"`
	Scopes     []string `json:"scopes"`
	CreatedAt  apiTime  `json:"created_at"`
	LastUsedAt apiTime  `json:"last_used_at"`
	ExpiresAt  apiTime  `json:"expires_at"`
	RevokedAt  apiTime  `json:"revoked_at"`
	OldUntil   apiTime  `json:"old_key_until"`
	Key        string   `json:"key,omitempty"`
}

func viewOfKey(k db.Key) keyView {
	return keyView{
		ID: k.ID, Name: k.Name, Prefix: k.Prefix, Scopes: k.Scopes, CreatedAt: apiTime(k.CreatedAt), LastUsedAt: apiTime(k.LastUsedAt),
		ExpiresAt: apiTime(k.ExpiresAt), RevokedAt: apiTime(k.RevokedAt), OldUntil: apiTime(k.OldUntil),
	}
}

// maker returns the key of a request as one that makes others.
func (s *Server) maker(r *http.Request) auth.Maker {
	a := aboutOf(r.Context())
	return auth.Maker{Store: s.Store, Cache: s.Redis, Principal: a.principal, Request: by(r).Request}
}

// writeSecret answers with a key and its secret, which nobody on the way may keep.
func (s *Server) writeSecret(w http.ResponseWriter, status int, k db.Key, secret auth.Secret) {
	w.Header().Set("Cache-Control", noStore)
	v := viewOfKey(k)
	v.Key = string(secret)
	s.writeJSON(w, status, v)
}

// createKeyRequest is the schema CreateApiKey.
type createKeyRequest struct {
	Name      string   `json:"name"`
	Scopes    []string `json:"scopes"`
	ExpiresIn *int     `json:"expires_in_seconds"`
}

func (s *Server) createKey(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var in createKeyRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	scopes, err := auth.ParseScopes(in.Scopes)
	if err != nil {
		return err
	}
	expires, err := in.expires(time.Now())
	if err != nil {
		return err
	}
	made, secret, err := s.maker(r).Make(r.Context(), in.Name, scopes, expires)
	if err != nil {
		return err
	}
	s.writeSecret(w, http.StatusCreated, made, secret)
	return nil
}

// expires returns until when a key is to be valid, zero where that is not said.
func (in createKeyRequest) expires(now time.Time) (time.Time, error) {
	if in.ExpiresIn == nil {
		return time.Time{}, nil
	}
	if *in.ExpiresIn < 1 || *in.ExpiresIn > int(maxKeyLife/time.Second) {
		return time.Time{}, models.Errorf(models.Invalid, "expires_in_seconds must be between 1 and %d, not %d", int(maxKeyLife/time.Second), *in.ExpiresIn)
	}
	return now.Add(time.Duration(*in.ExpiresIn) * time.Second), nil
}

func (s *Server) rotateKey(w http.ResponseWriter, r *http.Request) error {
	k, err := plain(r, id.ParseKey)
	if err != nil {
		return err
	}
	var in struct {
		Grace int `json:"grace_seconds"`
	}
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	if in.Grace > int(auth.MaxGrace/time.Second) { // beyond what a duration holds, perhaps
		in.Grace = -1
	}
	now, secret, err := s.maker(r).Rotate(r.Context(), k, time.Duration(max(in.Grace, -1))*time.Second)
	if err != nil {
		return err
	}
	s.writeSecret(w, http.StatusOK, now, secret)
	return nil
}

func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request) error {
	k, err := plain(r, id.ParseKey)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context()) // what is revoked is also forgotten
	if err := s.maker(r).Revoke(ctx, k); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listKeys(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, []string{"limit", "cursor"})
	if err != nil {
		return err
	}
	f := db.KeyFilter{Account: by(r).Account}
	if f.Limit, f.Before, f.BeforeID, err = pageAsked(q, id.ParseKey); err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.KeysOf(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfKey, func(k db.Key) string { return encodeCursor(k.CreatedAt, k.ID) }))
	return nil
}
