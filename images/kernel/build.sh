#!/bin/bash
# Builds the guest kernel: Debian's linux-source, reduced to what guest.config asks for.
#
#   build.sh OUT               OUT/vmlinux (stripped, uncompressed ELF), OUT/config, OUT/source-version
#   build.sh --source-version  the version of the source that a build would use
#
# Fails when a line of guest.config does not survive Kconfig.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
for part in progress cache debian; do
  # shellcheck source=/dev/null
  . "$here/../lib/$part.sh"
done

PACKAGE=linux-source-6.1
INSTALLED=/usr/src/$PACKAGE.tar.xz

main() {
  if [ "$1" = --source-version ]; then
    source_version
    return
  fi
  out=$1
  work="$out.work"
  mkdir "$work"
  trap 'rm -rf "$work"' EXIT
  build
}

# source_version is that of the installed package, else that of the last build, so that a machine with a
# filled cache downloads nothing. It is empty where the first build has yet to download the source.
source_version() {
  if [ -e "$INSTALLED" ]; then
    # shellcheck disable=SC2016 # dpkg's own placeholder
    dpkg-query -W -f '${Version}\n' "$PACKAGE"
  elif [ -e "$WRENN_CACHE/kernel/source-version" ]; then
    cat "$WRENN_CACHE/kernel/source-version"
  fi
}

build() {
  phase "unpacking the source"
  unpack
  cd "$work/$PACKAGE"
  apply_patches
  # The build says nothing about the machine it ran on.
  export KBUILD_BUILD_TIMESTAMP='2023-11-14 22:13:20 UTC' KBUILD_BUILD_USER=wrenn KBUILD_BUILD_HOST=wrenn KBUILD_BUILD_VERSION=1
  phase "configuring"
  KCONFIG_ALLCONFIG="$here/guest.config" make allnoconfig
  check_config .config
  phase "compiling"
  compile
  strip -o "$out/vmlinux" vmlinux
  cp .config "$out/config"
}

unpack() {
  local tarball=$INSTALLED deb
  if [ ! -e "$tarball" ]; then
    phase "downloading the source"
    debian_download "$PACKAGE" "$work"
    deb=$(find "$work" -maxdepth 1 -name "${PACKAGE}_*.deb")
    dpkg-deb -f "$deb" Version >"$out/source-version"
    dpkg-deb --fsys-tarfile "$deb" | tar -C "$work" -xf - --transform='s,.*/,,' "./usr/src/$PACKAGE.tar.xz"
    tarball="$work/$PACKAGE.tar.xz"
    phase "unpacking the source"
  else
    source_version >"$out/source-version"
  fi
  tar -C "$work" -xf "$tarball"
}

# apply_patches: a guest runs without them, too, so one that does not fit a newer source is left out.
apply_patches() {
  local file
  for file in "$here"/*.patch; do
    if patch -p1 --dry-run --silent <"$file"; then
      patch -p1 --silent <"$file"
    else
      echo "left out, as it does not fit this source: ${file##*/}"
    fi
  done
}

# check_config holds guest.config against the result: what was asked for is set, what was refused is not.
check_config() {
  local line name bad=0
  while IFS= read -r line; do
    case $line in
      '# CONFIG_'*' is not set')
        name=${line#\# }
        ! grep "^${name%% *}=" "$1" || bad=1 ;;
      CONFIG_*)
        grep -qxF "$line" "$1" || { echo "dropped: $line"; bad=1; } ;;
    esac
  done <"$here/guest.config"
  [ "$bad" = 0 ] || { echo "guest.config does not survive Kconfig: see the lines above"; return 1; }
}

# compile counts the objects, as there is no better measure of how far it is.
compile() {
  local line objects=0
  make -j"$(nproc)" vmlinux | while IFS= read -r line; do
    printf '%s\n' "$line"
    case $line in
      '  CC '* | '  AS '*) objects=$((objects + 1)); detail "$objects objects" ;;
      '  LD '*vmlinux*) detail "linking" ;;
    esac
  done
}

main "$@"
