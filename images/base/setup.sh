#!/bin/sh
# Runs as root in the chroot of the base tree, after packages and files/ are in place.
set -eu

chmod 0440 /etc/sudoers.d/user
groupadd --gid 1000 user
useradd --uid 1000 --gid user --create-home --shell /bin/bash --password '*' user

# One list of sources: the one from files/.
rm -f /etc/apt/sources.list
# The build's own settings for dpkg and apt are replaced by files/.
rm -f /etc/dpkg/dpkg.cfg.d/99mmdebstrap /etc/apt/apt.conf.d/99mmdebstrap
