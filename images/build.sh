#!/bin/bash
# Builds the guest kernel and the templates' images into build/guest, as links into the cache.
#
#   images/build.sh [--refresh] [template…]    default: every folder of images/templates
#
# --refresh takes the newest Debian packages; otherwise a template is built again only when
# something in this folder changes. A changed envd or kernel costs a second or two an image.
#
# Environment: WRENN_CACHE (/var/cache/wrenn), WRENN_ENVD (bin/envd), WRENN_GUEST_OUT (build/guest),
# WRENN_DEBIAN_MIRROR and WRENN_DEBIAN_SECURITY_MIRROR (as this machine's apt is set up).
set -euo pipefail

images=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$images/.." && pwd)
for part in progress cache npm image; do
  # shellcheck source=/dev/null
  . "$images/lib/$part.sh"
done
export WRENN_CACHE

ENVD=${WRENN_ENVD:-$root/bin/envd}
OUT=${WRENN_GUEST_OUT:-$root/build/guest}
PATH=$PATH:/usr/sbin:/sbin

# How many entries of a kind the cache keeps: the one in use and a few for other checkouts.
KEEP_KERNELS=3
KEEP_BASES=2
KEEP_IMAGES=4

main() {
  parse "$@"
  [ -x "$ENVD" ] || die "$ENVD is missing: run 'make build-envd' first"
  [ "$(uname -m)" = x86_64 ] || die "images are built for and on x86_64; this machine is $(uname -m)"
  keys
  if [ -z "$refresh" ] && complete; then
    link
    echo "guest kernel and images are up to date: ${templates[*]}"
    return
  fi
  [ "$(id -u)" = 0 ] || die "building images needs root: run 'sudo make images'"
  build
  link
  summary
}

parse() {
  refresh=
  templates=()
  while [ $# -gt 0 ]; do
    case $1 in
      --refresh) refresh=1 ;;
      -*) die "usage: images/build.sh [--refresh] [template…]" ;;
      *)
        [ -e "$images/templates/$1/template.conf" ] || die "there is no template '$1': $(cd "$images/templates" && echo *)"
        templates+=("$1") ;;
    esac
    shift
  done
  [ ${#templates[@]} -gt 0 ] || mapfile -t templates < <(cd "$images/templates" && printf '%s\n' *)
}

# keys computes the cache keys from the inputs. A template's depends on what its base came out as
# (base_id), so it is known only once the base is there.
keys() {
  declare -gA rootfs_key=() image_key=() digest=()
  local name
  kernel_key=$(kernel_key)
  base_key=$(files_digest "$images"/base/{packages,files,setup.sh} "$images"/lib/{rootfs,debian}.sh | cache_key)
  base_id=$(files_digest "$(cache_dir base "$base_key")/packages.txt" 2>/dev/null) || true
  envd_digest=$(sha256sum <"$ENVD")
  for name in "${templates[@]}"; do
    rootfs_key[$name]=$({ echo "$base_key $base_id"; template_digest "$name"; } | cache_key)
    digest[$name]=$({ echo "${rootfs_key[$name]} $envd_digest"; kernels_digest; cat "$images/lib/image.sh"; } | sha256sum | cut -d' ' -f1)
    image_key[$name]=$(echo "${digest[$name]} $kernel_key" | cache_key)
  done
}

kernel_key() {
  {
    files_digest "$images/kernel"
    "$images/kernel/build.sh" --source-version
    # Absent on a bare machine until install_tools has run.
    gcc --version 2>/dev/null | sed -n 1p || true
  } | cache_key
}

# template_digest hashes what goes into a template's image besides its base; READMEs and tests do not.
template_digest() {
  local dir="$images/templates/$1" part parts=("$images"/base/{finish.sh,mke2fs.conf})
  for part in template.conf setup.sh files; do
    [ ! -e "$dir/$part" ] || parts+=("$dir/$part")
  done
  files_digest "${parts[@]}"
}

complete() {
  local name
  cache_has kernel "$kernel_key" || return 1
  for name in "${templates[@]}"; do cache_has "image/$name" "${image_key[$name]}" || return 1; done
}

build() {
  cache_lock
  jobs_begin "$WRENN_CACHE/logs"
  trap 'jobs_stop; rm -rf --one-file-system "$WRENN_CACHE/tmp"' EXIT
  trap 'exit 130' INT TERM HUP
  [ -z "$refresh" ] || rm -rf "$(cache_dir base "$base_key")"
  # The build that held the lock may have made what is missing; a lost base may come out different.
  keys
  install_tools
  # The compiler is part of the kernel's key.
  keys
  # Base and templates are short and mostly wait: they run beside the kernel.
  cache_has kernel "$kernel_key" || job_start kernel kernel_make
  build_base
  build_rootfs
  jobs_wait
  keys
  build_images
  prune
}

# install_tools installs what the missing parts need, and nothing when they are cached.
install_tools() {
  local groups=(image) name
  cache_has kernel "$kernel_key" || groups+=(kernel)
  cache_has base "$base_key" || groups+=(rootfs)
  for name in "${templates[@]}"; do
    cache_has "rootfs/$name" "${rootfs_key[$name]}" || groups+=(rootfs)
    # shellcheck disable=SC2046 # a list of words
    [ -z "$(npm_missing $(npm_packages "$name"))" ] || groups+=(npm)
  done
  "$root/scripts/install-deps.sh" "${groups[@]}"
}

# kernel_make publishes under the version of the source that was really used: on a machine
# without the source it is known only once it has been downloaded.
kernel_make() {
  local tmp
  tmp=$(cache_tmp kernel)
  "$images/kernel/build.sh" "$tmp"
  mkdir -p "$WRENN_CACHE/kernel"
  cp "$tmp/source-version" "$WRENN_CACHE/kernel/source-version"
  cache_publish kernel "$(kernel_key)" "$tmp"
}

build_base() {
  if ! cache_has base "$base_key"; then
    job_start base cache_make base "$base_key" "$images/lib/rootfs.sh" base
    jobs_wait base
    keys
  fi
}

build_rootfs() {
  local name
  for name in "${templates[@]}"; do
    cache_has "rootfs/$name" "${rootfs_key[$name]}" || job_start "$name" rootfs_make "$name"
  done
}

rootfs_make() {
  # shellcheck disable=SC2046 # a list of words
  npm_fetch $(npm_packages "$1")
  cache_make "rootfs/$1" "${rootfs_key[$1]}" "$images/lib/rootfs.sh" template "$1" "$(cache_dir base "$base_key")/rootfs.tar"
}

npm_packages() {
  (
    # shellcheck source=/dev/null
    . "$images/templates/$1/template.conf"
    echo "$NPM_PACKAGES"
  )
}

build_images() {
  local name kernel
  kernel=$(sha256sum <"$(cache_dir kernel "$kernel_key")/vmlinux" | cut -d' ' -f1)
  for name in "${templates[@]}"; do
    cache_has "image/$name" "${image_key[$name]}" || job_start "$name" cache_make "image/$name" "${image_key[$name]}" \
      image_make "$(cache_dir "rootfs/$name" "${rootfs_key[$name]}")" "$ENVD" "$name" "${digest[$name]}" "$kernel"
  done
  jobs_wait
}

prune() {
  local name
  cache_prune kernel "$kernel_key" "$KEEP_KERNELS"
  cache_prune base "$base_key" "$KEEP_BASES"
  for name in "${templates[@]}"; do
    cache_prune "rootfs/$name" "${rootfs_key[$name]}" "$KEEP_BASES"
    cache_prune "image/$name" "${image_key[$name]}" "$KEEP_IMAGES"
  done
}

link() {
  local name
  link_to "$(cache_dir kernel "$kernel_key")/vmlinux" "$OUT/vmlinux"
  for name in "${templates[@]}"; do
    link_to "$(cache_dir "image/$name" "${image_key[$name]}")/rootfs.ext4" "$OUT/images/$name/rootfs.ext4"
    link_to "$(cache_dir "image/$name" "${image_key[$name]}")/manifest.json" "$OUT/images/$name/manifest.json"
  done
}

# link_to replaces a link in one step: a reader sees the old target or the new one.
link_to() {
  [ "$(readlink "$2" 2>/dev/null)" != "$1" ] || return 0
  mkdir -p "$(dirname "$2")"
  ln -sfn "$1" "$2.new"
  mv -T "$2.new" "$2"
}

summary() {
  local name
  jobs_clear
  echo "$(elapsed) guest kernel and images are in ${OUT#"$root"/}:"
  printf '  %-12s %5d MiB\n' vmlinux "$(size_mib "$OUT/vmlinux")"
  for name in "${templates[@]}"; do
    printf '  %-12s %5d MiB on disk\n' "$name" "$(size_mib "$OUT/images/$name/rootfs.ext4")"
  done
}

size_mib() { du -Lm "$1" | cut -f1; }

die() {
  echo "$1" >&2
  exit 1
}

main "$@"
