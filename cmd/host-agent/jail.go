package main

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/wrenn-sandbox/wrenn/internal/cgroup"
	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/agent"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
)

// openJails finds out how VMMs can be confined here, and says so once where that is less than it should be.
func openJails(cfg config.Agent, subnet netip.Prefix, log *slog.Logger) (*agent.Jails, error) {
	if cfg.Jail == "off" {
		log.Warn("jails are switched off: VMMs run as root, see the whole host and have no limits")
		return nil, nil
	}
	count := uint32(1) << (30 - min(30, subnet.Bits())) // slots
	if err := jail.CheckFree("/etc", cfg.OwnerBase, count); err != nil {
		return nil, models.Errorf(models.Precondition, "the user ids %d to %d, which VMMs are to run as, are not free: %v",
			cfg.OwnerBase, cfg.OwnerBase+count-1, err).WithHint("set owner_base to the first of %d ids that nobody has", count)
	}
	jails := &agent.Jails{DiskMiBs: cfg.DiskMiBs}
	if cfg.Cgroup == "off" {
		log.Warn("limits of sandboxes are switched off: one of them can take all of the host")
		return jails, nil
	}
	tree, err := cgroup.Open(cfg.Cgroup)
	switch {
	case errors.Is(err, cgroup.ErrUnavailable):
		log.Warn("limits of sandboxes are off: one of them can take all of the host; `wrenn doctor` says how to get cgroup v2", "reason", err)
		return jails, nil
	case err != nil:
		return nil, err
	case cfg.DiskMiBs > 0 && !tree.IO():
		log.Warn("disk_mib_s is without effect: the host has no io controller")
	}
	jails.Cgroups = tree
	return jails, nil
}
