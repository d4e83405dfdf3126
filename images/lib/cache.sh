# The build cache: $WRENN_CACHE/<kind>/<key>/, key = hash of the inputs.
#
# An entry is made in a temporary folder and renamed into place, so it is whole or absent.
# The caller holds the lock (cache_lock) while it makes, reads or prunes entries.
# shellcheck shell=bash

WRENN_CACHE=${WRENN_CACHE:-/var/cache/wrenn}

# cache_lock waits until no other build uses the cache, then clears what a killed one left behind.
cache_lock() {
  mkdir -p "$WRENN_CACHE"
  # Trees in it hold set-uid programs of the guests: nothing for the users of this machine.
  chmod 0711 "$WRENN_CACHE"
  exec {cache_lock_fd}>"$WRENN_CACHE/images.lock"
  if ! flock -n "$cache_lock_fd"; then
    echo "waiting for another build of the images to end ($WRENN_CACHE/images.lock)"
    flock "$cache_lock_fd"
  fi
  rm -rf --one-file-system "$WRENN_CACHE/tmp"
  mkdir -m 0700 "$WRENN_CACHE/tmp"
}

# cache_key hashes its standard input to 16 hex digits.
cache_key() { sha256sum | cut -c1-16; }

# files_digest hashes names and contents of the files given, or of all files in the folders given.
files_digest() {
  local path
  for path in "$@"; do
    (cd "$(dirname "$path")" && find "$(basename "$path")" -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum)
  done | sha256sum | cut -d' ' -f1
}

cache_dir() { echo "$WRENN_CACHE/$1/$2"; }

cache_has() { [ -d "$WRENN_CACHE/$1/$2" ]; }

# cache_make KIND KEY CMD… runs CMD with a temporary folder as last argument and publishes the folder.
cache_make() {
  local kind=$1 key=$2 tmp
  shift 2
  tmp=$(cache_tmp "$kind")
  "$@" "$tmp"
  cache_publish "$kind" "$key" "$tmp"
}

cache_tmp() { mktemp -d "$WRENN_CACHE/tmp/$(basename "$1").XXXXXX"; }

# cache_publish KIND KEY FOLDER makes a finished folder the entry of that key.
cache_publish() {
  find "$3" -type f -exec sync {} +
  mkdir -p "$WRENN_CACHE/$1"
  chmod 0755 "$3"
  # What a build found out on its way (the version of a source) may lead to a key that is there already.
  rm -rf "${WRENN_CACHE:?}/$1/$2"
  mv -T "$3" "$WRENN_CACHE/$1/$2"
}

# cache_prune KIND KEY KEEP marks KEY as used now and removes all but the KEEP entries used last.
cache_prune() {
  local dir="$WRENN_CACHE/$1" keep=$3 old
  touch "$dir/$2"
  find "$dir" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | tail -n +$((keep + 1)) | cut -d' ' -f2- |
    while IFS= read -r old; do rm -rf "$old"; done
}
