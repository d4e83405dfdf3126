package api

import (
	"encoding/base64"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

// maxHostName is that of Linux.
const maxHostName = 64

// joinRequest is the schema JoinHost.
type joinRequest struct {
	Token   string `json:"token"`
	Host    string `json:"host_id"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Request string `json:"certificate_request"` // base64
}

// joinedView is the answer.
type joinedView struct {
	Certificate []byte `json:"certificate"`
	Authority   []byte `json:"authority"`
}

// joinHost lets a host in that has a token, and certifies it. The fleets of all replicas connect to it then.
func (s *Server) joinHost(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var in joinRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	member, err := in.member()
	if err != nil {
		return err
	}
	authority, err := s.Controller.Fleet.Authority(r.Context())
	if err != nil {
		return err
	}
	request, err := base64.StdEncoding.DecodeString(in.Request)
	if err != nil {
		return models.Errorf(models.Invalid, "certificate_request must be base64: %v", err)
	}
	certificate, err := authority.SignHost(request, member.ID) // before the token is spent
	if err != nil {
		return err
	}
	member.Request = aboutOf(r.Context()).requestID
	if err := s.Store.JoinHost(r.Context(), member); err != nil {
		return err
	}
	s.Log.InfoContext(r.Context(), "host joins", "host_id", string(member.ID), "address", member.Address)
	s.writeJSON(w, http.StatusCreated, joinedView{Certificate: certificate, Authority: authority.Certificate()})
	return nil
}

// member checks what the host says of itself.
func (in joinRequest) member() (db.NewMember, error) {
	hash, err := mtls.HashSecret(in.Token)
	if err != nil {
		return db.NewMember{}, err
	}
	host, err := id.ParseHost(in.Host)
	if err != nil {
		return db.NewMember{}, models.Errorf(models.Invalid, "%v", err)
	}
	name, port, err := net.SplitHostPort(in.Address)
	number, bad := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || bad != nil || number == 0 || name == "" || len(in.Address) > maxAddress || strings.ContainsFunc(in.Address, isControl):
		return db.NewMember{}, models.Errorf(models.Invalid, "address must be host:port, not %q", in.Address)
	case in.Name == "" || len(in.Name) > maxHostName || strings.ContainsFunc(in.Name, isControl):
		return db.NewMember{}, models.Errorf(models.Invalid, "name must have 1 to %d characters, none of them a control character", maxHostName)
	}
	return db.NewMember{Token: hash, ID: host, Name: in.Name, Address: in.Address}, nil
}

// maxAddress is a domain name, a colon and a port.
const maxAddress = 253 + 6

func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }
