#!/bin/bash
# Boots each built template in QEMU and runs its smoke test there; says per template what came out.
#
#   images/smoke.sh [template…]    default: every template in build/guest
#
# Needs no KVM, no network and no envd: base/smoke-init.sh is PID 1. Environment: WRENN_GUEST_OUT (build/guest),
# SMOKE_TIMEOUT (seconds a template, 600), SMOKE_VERBOSE=1 shows every check.
set -euo pipefail

images=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=/dev/null
. "$images/lib/image.sh"
GUEST=${WRENN_GUEST_OUT:-$images/../build/guest}
PATH=$PATH:/usr/sbin:/sbin
# GROWN_TO is the size of the disk that the guest grows its file system to.
GROWN_TO=8G

main() {
  local name failed=0
  [ -e "$GUEST/vmlinux" ] || { echo "there are no images in $GUEST: run 'make images' first" >&2; exit 1; }
  [ $# -gt 0 ] || mapfile -t built < <(cd "$GUEST/images" && printf '%s\n' *)
  work=$(mktemp -d)
  trap 'stop; rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM HUP
  for name in "${@:-${built[@]}}"; do
    smoke "$name" || failed=1
  done
  exit "$failed"
}

# smoke NAME boots a copy of the template's image with its test inside.
smoke() {
  local name=$1 start=$SECONDS disk="$work/$1.ext4" console="$work/$1.console"
  cp --sparse=always --reflink=auto "$GUEST/images/$name/rootfs.ext4" "$disk"
  truncate -s "$GROWN_TO" "$disk"
  # shellcheck disable=SC2016 # for the guest's shell
  { cat "$images/base/smoke.sh" "$images/templates/$name/smoke.sh"; echo 'exit "$failures"'; } >"$work/smoke.sh"
  ext4_add "$disk" "$images/base/smoke-init.sh" /smoke-init
  ext4_add "$disk" "$work/smoke.sh" /smoke.sh
  zeroed "$disk" || { echo "$name: FAILED: the guest would zero inode tables"; return 1; }
  boot "$disk" "$console" || true
  verdict "$name" "$console" $((SECONDS - start))
}

# zeroed says whether every group's inode table is marked as zero, so that a boot writes none.
# e2fsprogs before 1.47 cannot mark them (lib/rootfs.sh).
zeroed() {
  [[ $(mke2fs -V 2>&1) == 'mke2fs 1.4'[0-6]* ]] || ! dumpe2fs "$1" 2>/dev/null | grep -E '^Group [0-9]+:' | grep -v ITABLE_ZEROED
}

boot() {
  timeout "${SMOKE_TIMEOUT:-600}" qemu-system-x86_64 -M microvm,acpi=off -accel tcg -cpu max -smp 1 -m 512M \
    -nodefaults -no-user-config -nographic -no-reboot -kernel "$GUEST/vmlinux" \
    -append "console=ttyS0 root=/dev/vda rw init=/smoke-init reboot=t panic=-1 quiet no_timer_check tsc=reliable" \
    -drive "id=root,file=$1,format=raw,if=none,cache=unsafe" -device virtio-blk-device,drive=root \
    -object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-device,rng=rng0 \
    -serial "file:$2" </dev/null &
  vmm=$!
  wait "$vmm"
}

# shellcheck disable=SC2317 # called by the trap
stop() {
  [ -z "${vmm:-}" ] || kill "$vmm" 2>/dev/null || true
}

verdict() {
  local console=$2
  tr -d '\r' <"$console" >"$console.txt"
  if grep -qx 'smoke test ended with status 0' "$console.txt"; then
    [ -z "${SMOKE_VERBOSE:-}" ] || grep '^ok: ' "$console.txt" | sed 's/^/  /'
    echo "$1: passed, $(grep -c '^ok: ' "$console.txt") checks in ${3} s"
    return
  fi
  echo "$1: FAILED after ${3} s"
  grep '^FAILED: ' "$console.txt" | sed 's/^/  /' || tail -n 20 "$console.txt" | sed 's/^/  | /'
  return 1
}

main "$@"
