#!/usr/bin/env bash
# Starts a whole Wrenn in a folder and a network namespace of its own, lets scripts/demo-steps.sh use it, ends
# it, and checks that nothing is left of it on the machine.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "make demo needs root: it makes a VM, its disk and its network" >&2; exit 1; }

data=$(mktemp -d /var/tmp/wrenn-demo.XXXXXX)
chmod 711 "$data" # the database runs as a user of its own
log=$data.log
finish() {
  status=$?
  if [ "$status" -ne 0 ]; then
    echo "the demo failed; the end of $log:" >&2
    tail -n 30 "$log" >&2 || true
    bin/host-agent purge --data "$data" >>"$log" 2>&1 || true
    umount "$data/netns" 2>/dev/null || true
  fi
  rm -rf --one-file-system "$data"
  [ "$status" -ne 0 ] || rm -f "$log"
  exit "$status"
}
trap finish EXIT

echo "Starting PostgreSQL, Redis, the control plane and the host agent in $data ..."
DEMO_STARTED=$(date +%s%N) bin/wrenn up --data "$data" --netns isolated --listen 127.0.0.1:0 -- \
  scripts/demo-steps.sh 2> >(tee -a "$log" >&2)

left=$(scripts/leftovers.sh "$data")
if [ -n "$left" ]; then
  echo "after the end there is left on the machine:" >&2
  echo "$left" >&2
  exit 1
fi
echo "Nothing is left running, mounted or made."
