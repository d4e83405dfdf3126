#!/bin/bash
# Builds the file trees of the images, in mount and process namespaces of its own: whatever
# ends it, no mount and no process stays behind.
#
#   rootfs.sh base OUT                    OUT/rootfs.tar, OUT/packages.txt
#   rootfs.sh template NAME BASE_TAR OUT  OUT/rootfs.ext4 (without envd), OUT/packages.txt
set -euo pipefail

images=$(cd "$(dirname "$0")/.." && pwd)
for part in progress cache debian; do
  # shellcheck source=/dev/null
  . "$images/lib/$part.sh"
done

# Every file of an image is at most this new, so that two builds of the same packages agree.
export SOURCE_DATE_EPOCH=1700000000
# TMPFS_NEEDS_MIB is what one tree and its packages take at most while it is built.
TMPFS_NEEDS_MIB=1500

main() {
  if [ -z "${WRENN_NAMESPACE:-}" ]; then
    WRENN_NAMESPACE=1 exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" "$@"
  fi
  out=${!#}
  workspace
  case $1 in
    base) build_base ;;
    template) build_template "$2" "$3" ;;
  esac
}

# workspace makes $work, in memory where there is plenty: dpkg syncs often.
workspace() {
  work="$out.work"
  mkdir "$work"
  trap 'umount -R "$work" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
  if [ "$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)" -gt $((3 * TMPFS_NEEDS_MIB)) ]; then
    mount -t tmpfs -o "size=${TMPFS_NEEDS_MIB}m,mode=0700" wrenn-images "$work"
  fi
  tree="$work/tree"
}

build_base() {
  phase "installing Debian $DEBIAN_SUITE"
  mapfile -t sources < <(debian_sources)
  apt_acquire >"$work/apt.conf"
  # shellcheck disable=SC2016 # $1 is mmdebstrap's, the tree
  mmdebstrap --mode=root --variant=minbase --format=directory --architectures=amd64 \
    --include="$(package_list "$images/base/packages" | paste -sd,)" \
    --dpkgopt="$images/base/files/etc/dpkg/dpkg.cfg.d/wrenn" --dpkgopt=force-unsafe-io \
    --aptopt="$work/apt.conf" --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --aptopt='APT::Sandbox::User "root"' \
    --setup-hook='for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done' \
    "$DEBIAN_SUITE" "$tree" "${sources[@]}"
  add_files "$images/base/files"
  in_tree /bin/sh -s <"$images/base/setup.sh"
  phase "packing"
  list_packages
  pack_tree
}

build_template() {
  local name=$1 base_tar=$2
  phase "unpacking the base"
  mkdir "$tree"
  tar -C "$tree" --numeric-owner --xattrs --xattrs-include='*' -xf "$base_tar"
  # shellcheck source=/dev/null
  . "$images/templates/$name/template.conf"
  if [ -n "$PACKAGES" ]; then
    phase "installing packages"
    # shellcheck disable=SC2086 # a list of words
    install_packages $PACKAGES
  fi
  customise "$name"
  rm -rf "$tree/build"
  phase "making the file system"
  in_tree /bin/sh -s <"$images/base/finish.sh"
  list_packages
  make_ext4 "$name"
}

# customise adds the template's files/ and runs its setup.sh in the tree.
customise() {
  local dir="$images/templates/$1"
  [ ! -d "$dir/files" ] || add_files "$dir/files"
  [ -e "$dir/setup.sh" ] || return 0
  phase "setting up"
  unpack_npm
  in_tree /bin/sh -s <"$dir/setup.sh"
}

# unpack_npm puts each of NPM_PACKAGES, fetched before by npm.sh, into /build/npm/<name>.
unpack_npm() {
  local spec dir
  for spec in $NPM_PACKAGES; do
    spec=${spec%%=*}
    dir="$tree/build/npm/${spec%@*}"
    mkdir -p "$dir"
    tar -C "$dir" --strip-components=1 --no-same-owner -xzf "$WRENN_CACHE/npm/$spec.tgz"
  done
}

# install_packages runs this machine's apt on the tree, and dpkg inside it, as mmdebstrap does:
# the tree needs no network, no resolver and none of this machine's settings.
install_packages() {
  mkdir -p "$work/lists/partial" "$tree/build/archives/partial"
  debian_sources >"$work/sources.list"
  {
    apt_acquire
    cat <<CONF
Dir "$tree";
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache::Archives "$tree/build/archives";
Dir::Bin::dpkg "/usr/bin/dpkg";
DPkg::Chroot-Directory "$tree";
DPkg::Options { "--force-unsafe-io"; };
APT::Architecture "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
CONF
  } >"$work/apt.conf"
  APT_CONFIG="$work/apt.conf" apt-get update -q
  mount -t proc proc "$tree/proc"
  DEBIAN_FRONTEND=noninteractive APT_CONFIG="$work/apt.conf" apt-get install -q -y "$@"
  umount "$tree/proc"
}

in_tree() {
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" chroot "$tree" "$@"
}

# add_files copies a folder over the tree: owned by root, modes independent of the checkout's umask.
add_files() {
  tar -C "$1" --owner=0 --group=0 --mode='u=rwX,go=rX' -cf - . | tar -C "$tree" --no-overwrite-dir -xf -
}

package_list() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1"; }

# shellcheck disable=SC2016 # dpkg's own placeholders
list_packages() { in_tree dpkg-query -W -f '${Package} ${Version}\n' >"$out/packages.txt"; }

pack_tree() {
  tar -C "$tree" --numeric-owner --xattrs --xattrs-include='*' --sort=name -cf "$out/rootfs.tar" .
}

# make_ext4 writes the tree as an ext4 image of the template's logical size (see base/mke2fs.conf).
# The journal of 16 MiB costs nothing until it is written. The file is new and reads as zeros: neither
# mke2fs nor a booting guest has to zero inode tables. Identifiers depend on the template's name alone.
make_ext4() {
  local id
  id=$(echo "wrenn template $1" | sha256sum | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/')
  find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  MKE2FS_CONFIG="$images/base/mke2fs.conf" E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -T ext4 -t ext4 -J size=16 \
    -E "$(prezeroed),hash_seed=$id" -U "$id" -L rootfs -d "$tree" "$out/rootfs.ext4" "${DISK_MIB}M"
}

# prezeroed prints the option that marks inode tables as zero. e2fsprogs before 1.47 lacks it: there the
# first boot zeroes them in the background, a few MiB.
prezeroed() {
  if [[ $(mke2fs -V 2>&1) != 'mke2fs 1.4'[0-6]* ]]; then echo assume_storage_prezeroed=1; else echo lazy_itable_init=1,lazy_journal_init=1; fi
}

main "$@"
