#!/bin/bash
# Makes a small Linux host that has a working /dev/kvm under QEMU's emulation, for tests that need one.
#
#   build.sh OUT    OUT/vmlinuz, OUT/host.cpio: Debian's cloud kernel, and a root file system to be
#                   loaded as its initramfs: busybox, mke2fs, modules for KVM, TUN, virtio disks and nftables, and ./init
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=images/lib/debian.sh
. "$here/../../images/lib/debian.sh"

# What a test host needs besides busybox: mke2fs makes guests' disks; libgcc_s and libc are for
# VMMs that are not static. The kernel's package brings its modules.
PACKAGES=linux-image-cloud-amd64,busybox-static,e2fsprogs,libgcc-s1,libc6
# In the order in which they are loaded, each after what it depends on. kvm-amd, as QEMU emulates SVM and not VMX;
# virtio for the disk with the agent's data; from libcrc32c on what the agent's nftables rules need.
MODULES=(irqbypass kvm kvm-amd tun virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk libcrc32c nfnetlink nf_tables nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack nf_conntrack_netlink nf_nat
  nft_ct nft_chain_nat nft_masq nft_redir nft_fib nft_fib_ipv4 nft_fib_ipv6 nft_fib_inet nft_limit nf_conncount nft_connlimit nft_log nfnetlink_log)

main() {
  local out=$1
  tree=$(mktemp -d "$out/tree.XXXXXX")
  trap 'rm -rf "$tree"' EXIT
  extract
  mv "$tree"/boot/vmlinuz-* "$out/vmlinuz"
  prune
  install -m 755 "$here/init" "$tree/init"
  (cd "$tree" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null -o -H newc -R 0:0) >"$out/host.cpio"
}

# extract unpacks the packages without running anything of theirs.
extract() {
  local sources
  mapfile -t sources < <(debian_sources)
  apt_acquire >"$tree.apt"
  mmdebstrap --quiet --mode=root --variant=extract --format=directory --architectures=amd64 --include="$PACKAGES" \
    --aptopt="$tree.apt" --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    "$DEBIAN_SUITE" "$tree" "${sources[@]}" >&2
  rm -f "$tree.apt"
}

# prune keeps the programs and the modules that a test host uses: all of it lies in its memory.
prune() {
  local kept=$tree.kept modules file
  mkdir -p "$kept"/{bin,dev,proc,sys,tmp,root,etc,usr/bin,lib/x86_64-linux-gnu,lib64,lib/modules}
  cp "$tree/bin/busybox" "$kept/bin/"
  cp "$(find "$tree" -name mke2fs -type f)" "$kept/bin/"
  cp "$tree/etc/mke2fs.conf" "$kept/etc/"
  find "$tree" -path '*/x86_64-linux-gnu/*' \( -name 'libc.so.6' -o -name 'libgcc_s.so.1' -o -name 'lib[emprb]*.so.*' \
    -o -name 'libuuid.so.*' -o -name 'libcom_err.so.*' -o -name 'libpthread.so.*' -o -name 'libdl.so.*' \) \
    -exec cp -L {} "$kept/lib/x86_64-linux-gnu/" \;
  cp -L "$tree"/lib64/ld-linux-x86-64.so.2 "$kept/lib64/"
  modules=$(cd "$tree/lib/modules" && echo *)
  for file in "${MODULES[@]}"; do
    find "$tree/lib/modules" -name "$file.ko*" -exec cp {} "$kept/lib/modules/" \;
  done
  [ "$(find "$kept/lib/modules" -name '*.ko' | wc -l)" = ${#MODULES[@]} ] ||
    { echo "the kernel $modules lacks some of the modules ${MODULES[*]}" >&2; return 1; }
  printf '%s\n' "${MODULES[@]}" >"$kept/lib/modules/order"
  rm -rf "$tree"
  mv "$kept" "$tree"
}

main "$@"
