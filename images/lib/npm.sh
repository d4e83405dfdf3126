# Packages from the npm registry, pinned by version and hash.
# shellcheck shell=bash

# npm_missing prints those of the specs NAME@VERSION=INTEGRITY that are not in $WRENN_CACHE/npm yet.
npm_missing() {
  local spec
  for spec in "$@"; do
    [ -e "$WRENN_CACHE/npm/${spec%%=*}.tgz" ] || echo "$spec"
  done
}

# npm_fetch downloads the specs with the npm client, so that its registry setting holds.
npm_fetch() {
  local spec name file dir
  mkdir -p "$WRENN_CACHE/npm"
  for spec in $(npm_missing "$@"); do
    name=${spec%%=*}
    phase "downloading $name"
    dir=$(cache_tmp npm)
    (cd "$dir" && npm pack --silent "$name")
    file=$(find "$dir" -name '*.tgz')
    npm_verify "$file" "${spec#*=}"
    mv "$file" "$WRENN_CACHE/npm/$name.tgz"
  done
}

# npm_verify compares a file with an integrity string, sha512-<base64>.
npm_verify() {
  local got
  got="sha512-$(openssl dgst -sha512 -binary "$1" | base64 -w0)"
  [ "$got" = "$2" ] || { echo "$(basename "$1"): expected $2, got $got"; return 1; }
}
