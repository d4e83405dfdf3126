#!/usr/bin/env bash
# Starts a whole Wrenn in a folder and a network namespace of its own, measures it, and ends it. The
# results are printed and merged into build/bench.json. Arguments go to the bench program.
set -euo pipefail
cd "$(dirname "$0")/.."

data=$(mktemp -d /var/tmp/wrenn-bench.XXXXXX)
chmod 711 "$data" # the database runs as a user of its own
trap 'rm -rf --one-file-system "$data"' EXIT
go build -o build/tools/bench ./bench
go build -o build/tools/bench-network ./bench/network
go build -o build/tools/bench-chunks ./bench/chunks
go build -o build/tools/bench-controlplane ./bench/controlplane
build/tools/bench-network
build/tools/bench-chunks
build/tools/bench-controlplane
up() { bin/wrenn up --data "$data" --netns isolated --listen 127.0.0.1:0 -- build/tools/bench "$@"; }
WRENN_GOLDEN_MIB=0 up "$@" # every sandbox boots
WRENN_GOLDEN_MIB=4096 WRENN_POOL_MIB=0 up -golden "$@"
WRENN_GOLDEN_MIB=4096 WRENN_POOL_MIB=2048 up -pool "$@"
# An S3 server on the loopback of a namespace that all of the platform is in: the agent must reach it.
# shellcheck disable=SC2016 # expanded in there
unshare --net bash -euo pipefail -c '
  data=$1; shift
  ip link set lo up
  mkdir -p "$data/s3/bench"
  scripts/tool.sh versitygw --access bench --secret bench-secret --port 127.0.0.1:7070 --quiet posix --nometa "$data/s3" >"$data/s3.log" 2>&1 &
  trap "kill %1" EXIT
  export WRENN_OBJECTS=s3://bench WRENN_S3_ENDPOINT=http://127.0.0.1:7070 WRENN_S3_ACCESS_KEY=bench WRENN_S3_SECRET_KEY=bench-secret WRENN_CHUNK_CACHE_MIB=0
  WRENN_GOLDEN_MIB=0 bin/wrenn up --data "$data" --netns host --listen 127.0.0.1:0 -- build/tools/bench -hibernate "$@"
' bench-hibernate "$data" "$@"
