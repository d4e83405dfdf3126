package api

import (
	"net/http"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/db"
)

// hostAuditView is the schema HostAuditEvent.
type hostAuditView struct {
	auditView
	Detail *string `json:"detail"`
}

func viewOfHostAudit(e db.HostAuditEvent) hostAuditView {
	return hostAuditView{auditView: viewOfAudit(e.AuditEvent), Detail: orNull(e.Detail)}
}

func (s *Server) listHostAudit(w http.ResponseWriter, r *http.Request) error {
	f, err := auditFilter(r)
	if err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // see pageOf
	found, err := s.Store.HostAudit(r.Context(), f)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, pageOf(found, most, viewOfHostAudit, func(e db.HostAuditEvent) string { return strconv.FormatInt(e.ID, 10) }))
	return nil
}
