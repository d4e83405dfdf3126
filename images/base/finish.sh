#!/bin/sh
# Runs as root in the chroot of every finished tree: nothing of the build stays behind.
set -eu

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/*
rm -rf /tmp/* /var/tmp/* /run/* /root/.cache /usr/share/man /usr/share/info
find /var/log -type f -exec truncate -s 0 {} +
: >/etc/machine-id
# Left by `adduser` and friends; they differ from build to build.
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-
# The day of the build is not a property of an account.
sed -i -E 's/^([^:]*:[^:]*):[0-9]+:/\1:19000:/' /etc/shadow
