#!/bin/bash
# Runs the VM suite and the API corpus against the firecracker on the PATH, the life of a sandbox with its envd
# through the host agent, and what QEMU does on a host with KVM and cgroup v2.
#
#   scripts/test-firecracker.sh [go test flags: -test.run=…, -test.v]
#
# Where KVM is usable this is an ordinary test run. Elsewhere it runs inside a virtual machine that QEMU
# emulates, which has a working KVM of its own: a guest boots in some 10 s there, the whole takes minutes.
#
# Environment: WRENN_SECCOMP_FILTER, a filter compiled by the release's seccompiler-bin for a firecracker that was built without one;
# WRENN_CACHE (/var/cache/wrenn), WRENN_GUEST_KERNEL (build/guest/vmlinux), WRENN_GUEST_IMAGES (build/guest/images),
# WRENN_TEST_HOST_MIB (3072): the memory of that machine, WRENN_TEST_DISK (/var/tmp): where KVM is usable, a folder on a disk.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=images/lib/cache.sh
. "$root/images/lib/cache.sh"

KERNEL=${WRENN_GUEST_KERNEL:-$root/build/guest/vmlinux}
IMAGES=${WRENN_GUEST_IMAGES:-$root/build/guest/images}
FILTER=${WRENN_SECCOMP_FILTER:-}
# What bounds the tests and the whole run: they are there for what hangs, not for what is slow.
TEST_LIMIT=40m
LIMIT=90m
# Seconds without a sign of life of the emulated host, which gives one every five seconds once it has begun to.
STALL=120

main() {
  firecracker=$(command -v firecracker) ||
    die "there is no firecracker on the PATH: take it from https://github.com/firecracker-microvm/firecracker/releases"
  jailer=$(command -v jailer) || die "there is no jailer on the PATH: it comes with firecracker"
  [ -z "$FILTER" ] || [ -r "$FILTER" ] || die "there is no seccomp filter $FILTER"
  [ -r "$KERNEL" ] || die "$KERNEL is missing: run 'make images' first"
  [ -r "$IMAGES/minimal/manifest.json" ] || die "$IMAGES/minimal is missing: run 'make images' first"
  [ "$(id -u)" = 0 ] || die "virtual machines and TAP devices need root"
  echo "firecracker: $(firecracker --version | head -1) ($firecracker)"
  work=$(mktemp -d)
  trap cleanup EXIT
  trap 'exit 130' INT TERM HUP
  compile
  if kvm_usable; then
    echo "KVM is usable here: running directly"
    cd "$root/internal/vm/firecracker"
    WRENN_TEST_DISK=${WRENN_TEST_DISK:-/var/tmp}
    export WRENN_TEST_DISK
    run_tests "$work" "$KERNEL" "$IMAGES" "$@"
  else
    echo "KVM is not usable here: running in an emulated host"
    run_nested "$@"
  fi
}

die() {
  echo "test-firecracker: $*" >&2
  exit 1
}

cleanup() {
  local status=$?
  [ -z "${qemu:-}" ] || { kill "$qemu" 2>/dev/null && wait "$qemu"; } || true
  rm -rf "$work"
  exit "$status"
}

compile() {
  cd "$root"
  CGO_ENABLED=0 go test -c -o "$work/firecracker.test" ./internal/vm/firecracker
  CGO_ENABLED=0 go test -c -o "$work/agent.test" ./cmd/host-agent
  CGO_ENABLED=0 go test -c -o "$work/qemu.test" ./internal/vm/qemu
  CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$work/guest" ./internal/vm/vmtest/guest
}

# run_tests DIR KERNEL IMAGES FLAGS… runs the compiled tests that need a real Firecracker.
run_tests() {
  local dir=$1 status=0 suite tests='Firecracker$'
  export WRENN_REQUIRE_FIRECRACKER=1 WRENN_GUEST_KERNEL=$2 WRENN_GUEST_IMAGES=$3 WRENN_VMTEST_GUEST=$dir/guest
  shift 3
  for suite in firecracker agent qemu; do
    # Of QEMU what KVM and cgroup v2 have a part in: the rest of its suite is run everywhere.
    [ $suite != qemu ] || tests='QEMU$/^(boots|network|adopt_after_agent_death|jail_.*)$'
    "$dir/$suite.test" -test.run="$tests" -test.timeout="$TEST_LIMIT" -test.v "$@" || status=1
  done
  return $status
}

kvm_usable() {
  WRENN_ASK_KVM=1 "$work/firecracker.test" -test.run='^TestKVMProbe$' >/dev/null 2>&1
}

run_nested() {
  "$root/scripts/install-deps.sh" emulation
  host=$(host_image)
  payload "$@"
  boot
}

# host_image makes the emulated host's kernel and root file system, once, and prints their folder.
host_image() {
  local key
  key=$(files_digest "$root/scripts/host-in-a-vm" "$root/images/lib/debian.sh" | cache_key)
  cache_lock >&2
  if ! cache_has test-host "$key"; then
    echo "making the emulated host (once)" >&2
    cache_make test-host "$key" "$root/scripts/host-in-a-vm/build.sh" >&2
  fi
  cache_prune test-host "$key" 2
  cache_dir test-host "$key"
}

# payload puts what the run needs into an archive of its own, which the kernel unpacks over the host's.
payload() {
  local dir=$work/payload
  mkdir -p "$dir/payload/bin"
  mv "$work/"*.test "$work/guest" "$dir/payload/"
  cp "$KERNEL" "$dir/payload/vmlinux"
  cp "$firecracker" "$dir/payload/bin/firecracker"
  cp "$jailer" "$dir/payload/bin/jailer"
  [ -z "$FILTER" ] || install -m 644 "$FILTER" "$dir/payload/seccomp.bpf"
  qemu_files | cpio --quiet --null -p -d -m -L "$dir"
  {
    echo '#!/bin/sh'
    # shellcheck disable=SC2016 # for the shell of the emulated host
    echo 'export PATH=/payload/bin:$PATH:/usr/bin WRENN_SLOW_HOST=1 WRENN_DISPOSABLE_HOST=1 WRENN_TEST_DATA=/data/agent WRENN_TEST_DISK=/data; cd /tmp'
    [ -z "$FILTER" ] || echo 'export WRENN_SECCOMP_FILTER=/payload/seccomp.bpf'
    declare -f run_tests
    printf 'TEST_LIMIT=%q; run_tests /payload /payload/vmlinux /data/images' "$TEST_LIMIT"
    [ $# = 0 ] || printf ' %q' "$@"
    echo
  } >"$dir/payload/run"
  chmod 755 "$dir/payload/run"
  cp "$host/host.cpio" "$work/initrd"
  (cd "$dir" && find . -print0 | cpio --quiet --null -o -H newc -R 0:0) >>"$work/initrd"
  rm -rf "$dir"
}

# qemu_files prints the files that QEMU needs, as it is on this machine: the program, its libraries and its firmware.
qemu_files() {
  local program
  program=$(readlink -f "$(command -v qemu-system-x86_64)")
  {
    echo "$program"
    ldd "$program" | grep -o '/[^ ]*'
    find "$(dirname "$program")/../share/qemu/" -name '*.rom' -o -name 'bios-microvm.bin' -o -name 'pvh.bin' -o -name 'linuxboot*.bin'
  } | xargs -d '\n' realpath -s | tr '\n' '\0'
}

# data_disk makes the disk of the emulated host: the template's image, and room for the agent's data folder. It is
# sparse, as the image is.
data_disk() {
  mkdir -p "$work/disk/images/minimal"
  cp --sparse=always -L "$IMAGES"/minimal/* "$work/disk/images/minimal/"
  rm -f "$work/data.ext4"
  mke2fs -q -t ext4 -d "$work/disk" "$work/data.ext4" 8G
  rm -rf "$work/disk"
}

# boot runs the emulated host and ends with the tests' status. QEMU's emulation of SVM loses all interrupts of the emulated
# host now and then, most often when a VMM is killed, and then nothing runs there any more, not even its clock. That says
# nothing about the tests: the run is made again.
boot() {
  local try
  for try in 1 2 3; do
    data_disk
    if boot_once; then exit "$status"; fi
    echo "test-firecracker: the emulated host has stopped (try $try of 3)" >&2
  done
  die "the emulated host stopped three times"
}

# boot_once sets status from what the emulated host says on its second serial line, or fails when that falls silent for
# longer than STALL.
boot_once() {
  : >"$work/status"
  # One processor: with two, the emulation stops far more often.
  timeout --kill-after=10 "$LIMIT" qemu-system-x86_64 -M q35 -accel tcg,thread=multi,tb-size=512 -cpu max -smp 1 \
    -m "${WRENN_TEST_HOST_MIB:-3072}" -nodefaults -no-user-config -display none -no-reboot -device virtio-rng-pci \
    -kernel "$host/vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 loglevel=2 panic=-1 rdinit=/init mitigations=off" \
    -drive "file=$work/data.ext4,format=raw,if=virtio,cache=unsafe,discard=unmap" \
    -chardev stdio,id=out,signal=off -serial chardev:out -serial "file:$work/status" </dev/null &
  qemu=$!
  while kill -0 "$qemu" 2>/dev/null; do
    sleep 1
    if stalled; then
      stop_qemu
      return 1
    fi
  done
  wait "$qemu" || die "the emulated host ended with status $?"
  qemu=
  status=$(sed -n 's/^status \([0-9]*\)\r*$/\1/p' "$work/status")
  [ -n "$status" ] || die "the emulated host ended without a result"
}

# stalled says that the emulated host lived once and does not any more. How long it takes to boot depends on the machine alone.
stalled() {
  [ -s "$work/status" ] && [ $(($(date +%s) - $(stat -c %Y "$work/status"))) -gt "$STALL" ]
}

stop_qemu() {
  kill "$qemu"
  wait "$qemu" || true # it was killed
  qemu=
}

main "$@"
