#!/usr/bin/env bash
# Runs a development tool of a fixed version, built once from its Go module into the cache.
# usage: scripts/tool.sh NAME ARG...
set -euo pipefail

declare -A module=(
  [protoc-gen-go]=google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
  [protoc-gen-go-grpc]=google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
  [protoc-gen-connect-go]=connectrpc.com/connect/cmd/protoc-gen-connect-go@v1.21.1
  [sqlc]=github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1
  [golangci-lint]=github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
  [air]=github.com/air-verse/air@v1.67.4
  [versitygw]=github.com/versity/versitygw/cmd/versitygw@v1.8.0
)
name=$1; shift
source=${module[$name]:?unknown tool}
dir=${WRENN_CACHE:-/var/cache/wrenn}/tools/$name@${source##*@}
if [ ! -x "$dir/$name" ]; then
  echo "building $source (once)" >&2
  mkdir -p "$dir"
  GOWORK=off GOFLAGS='' GOBIN="$dir" go install "$source"
fi
exec "$dir/$name" "$@"
