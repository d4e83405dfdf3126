#!/usr/bin/env bash
# Makes proto/gen anew from every .proto file. The plugins have fixed versions (scripts/tool.sh);
# protoc comes from the distribution, and its version is left out of the output.
set -euo pipefail
cd "$(dirname "$0")/.."

plugin() { # a protoc plugin is an executable: one line that hands over to tool.sh
  printf '#!/bin/sh\nexec "%s/scripts/tool.sh" %s "$@"\n' "$PWD" "$1" > "$work/$1"
  chmod +x "$work/$1"
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for p in protoc-gen-go protoc-gen-go-grpc protoc-gen-connect-go; do plugin "$p"; done

out="$work/gen"
mkdir -p "$out"
base=module=github.com/wrenn-sandbox/wrenn/proto/gen
PATH="$work:$PATH" protoc -I proto --go_out="$out" --go_opt=$base \
  --go-grpc_out="$out" --go-grpc_opt=$base proto/hostagent/v1/*.proto
PATH="$work:$PATH" protoc -I proto --go_out="$out" --go_opt=$base \
  --connect-go_out="$out" --connect-go_opt=$base proto/envd/*/*.proto
# protoc's own version differs between distributions; the code does not depend on it.
find "$out" -name '*.go' -exec sed -i -E '/^\/\/ (-|\t) ?protoc +v[0-9.]+$/d' {} +
rm -rf proto/gen
mv "$out" proto/gen
