#!/bin/bash
# Prints the folder of the first Go that is new enough for go.work; fails when there is none.
# scripts/install-deps.sh leaves ${WRENN_CACHE}/go as a link to one where the PATH has none.
set -euo pipefail

cd "$(dirname "$0")/.."
wanted=$(awk '$1 == "go" { print $2 }' go.work)
cache=${WRENN_CACHE:-/var/cache/wrenn}

# new_enough GO says whether that program is at least the wanted version.
new_enough() {
  local got
  got=$(GOTOOLCHAIN=local "$1" version 2>/dev/null | sed -nE 's/^go version go([0-9.]+).*/\1/p')
  [ -n "$got" ] && printf '%s\n%s\n' "$wanted" "$got" | sort -VC
}

for go in "$(command -v go || true)" "$cache/go/bin/go" /usr/local/go/bin/go /usr/lib/go-*/bin/go; do
  if [ -x "$go" ] && new_enough "$go"; then
    dirname "$go"
    exit 0
  fi
done
echo "no Go >= $wanted found: run 'scripts/install-deps.sh go'" >&2
exit 1
