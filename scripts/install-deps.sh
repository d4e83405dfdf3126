#!/bin/bash
# Installs what Wrenn needs on Debian 12/13 or Ubuntu 22.04/24.04, in groups:
#
#   scripts/install-deps.sh [group…]     default: base go run
#
#   base    compiler, make, git, curl, CA certificates
#   go      Go, when none on this machine is new enough for go.work
#   run     what host agent and control plane use: QEMU, PostgreSQL, Redis, nftables, XFS tools
#   test    what tests run beside that: Python and Node.js, for images/kernels; Chromium, for terminals
#   host    what host-agent setup uses: modprobe, useradd
#   emulation   asked for by scripts/test-firecracker.sh where it has to emulate a host
#   dev     protoc and shellcheck
#   s3      versitygw, a real S3 server, for tests and bench: built from its Go module, some minutes, once
#   client  what E2B's released clients run on: Python with pip, npm (which brings a Node.js where there is none)
#   image, rootfs, kernel, npm   asked for by images/build.sh when something has to be built
#   guest   these four
#
# Does nothing where everything is there. Starts no service and leaves none enabled.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
export WRENN_CACHE=${WRENN_CACHE:-/var/cache/wrenn}
log=/tmp/wrenn-install-deps.log

# packages GROUP prints lines "probe package": a command that is on the PATH, or a path (globs allowed)
# that exists, once the package is there - from wherever it came.
packages() {
  case $1 in
    base) cat <<'LIST' ;;
git git
make make
gcc gcc
/usr/include/stdio.h libc6-dev
curl curl
/etc/ssl/certs/ca-certificates.crt ca-certificates
LIST
    run) cat <<'LIST' ;;
qemu-system-x86_64 qemu-system-x86
/usr/share/qemu/qboot.rom qemu-system-data
/usr/lib/postgresql/*/bin/postgres postgresql
redis-server redis-server
nft nftables
mkfs.xfs xfsprogs
mke2fs e2fsprogs
ip iproute2
LIST
    bench) cat <<'LIST' ;;
iptables iptables
zstd zstd
LIST
    test) cat <<'LIST' ;;
python3 python3
node nodejs
chromium chromium
LIST
    emulation) cat <<'LIST' ;;
qemu-system-x86_64 qemu-system-x86
mmdebstrap mmdebstrap
cpio cpio
mke2fs e2fsprogs
LIST
    host) cat <<'LIST' ;;
modprobe kmod
useradd passwd
mount mount
LIST
    dev) cat <<'LIST' ;;
protoc protobuf-compiler
/usr/include/google/protobuf/descriptor.proto libprotobuf-dev
shellcheck shellcheck
LIST
    client) cat <<'LIST' ;;
python3 python3
pip3 python3-pip
npm npm
LIST
    image) echo mke2fs e2fsprogs ;;
    rootfs) cat <<'LIST' ;;
mmdebstrap mmdebstrap
mount mount
openssl openssl
LIST
    kernel) cat <<'LIST' ;;
gcc gcc
/usr/include/stdio.h libc6-dev
make make
flex flex
bison bison
patch patch
bc bc
xz xz-utils
/usr/include/libelf.h libelf-dev
LIST
    npm) echo npm npm ;;
    guest) for group in image rootfs kernel npm; do packages "$group"; done ;;
    *) die "unknown group '$1': base, go, run, test, host, emulation, dev, s3, client, guest, image, rootfs, kernel, npm" ;;
  esac
}

main() {
  local want_go='' want_s3='' missing=() group
  [ $# -gt 0 ] || set -- base go run
  for group in "$@"; do
    case $group in
      go) want_go=1 ;;
      s3) want_s3=1 ;;
      *) collect_missing "$group" ;;
    esac
  done
  [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
  [ -z "$want_go" ] || ensure_go
  [ -z "$want_s3" ] || ensure_s3
}

ensure_s3() {
  ! command -v versitygw >/dev/null || return 0
  PATH=$("$root/scripts/go-path.sh"):$PATH "$root/scripts/tool.sh" versitygw --version >/dev/null
}

# collect_missing adds the packages of a group that are not there to the caller's list.
collect_missing() {
  local probe package list
  list=$(packages "$1")
  while read -r probe package; do
    present "$probe" || missing+=("$package")
  done <<<"$list"
}

present() {
  case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

install() {
  local packages
  packages=$(printf '%s\n' "$@" | sort -u | paste -sd' ')
  need_root "$packages"
  command -v apt-get >/dev/null || die "these packages are missing, and this is neither Debian nor Ubuntu; install them by hand: $packages"
  echo "installing with apt-get: $packages"
  hold_services
  # shellcheck disable=SC2086 # a list of words
  apt_install $packages || failed "$packages"
  release_services
  case " $packages " in *' redis-server '*) disable_service redis-server ;; esac
}

# apt_install tries with the package lists that are there, then with fresh ones.
apt_install() {
  : >"$log"
  [ -n "$(find /var/lib/apt/lists -name '*Packages*' -print -quit)" ] && apt install -y --no-install-recommends "$@" && return
  apt update && apt install -y --no-install-recommends "$@"
}

apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o DPkg::Options::=--force-unsafe-io "$@" >>"$log" 2>&1 </dev/null
}

failed() {
  tail -n 15 "$log" | sed 's/^/  | /' >&2
  die "apt-get could not install: $1
Check the network and the package sources (on Ubuntu, 'universe' must be enabled: add-apt-repository universe),
then run this again. The whole log: $log"
}

# --- packages that would start servers ---------------------------------------------------------------

POLICY=/usr/sbin/policy-rc.d
NO_CLUSTER=/etc/postgresql-common/createcluster.d/wrenn-install.conf

# hold_services keeps the packages from starting servers and from making a PostgreSQL cluster.
# Both are undone by release_services, also when this script fails or, on its next run, was killed.
hold_services() {
  release_services
  trap release_services EXIT
  [ ! -e "$POLICY" ] || mv "$POLICY" "$POLICY.wrenn-saved"
  printf '#!/bin/sh\n# wrenn-install: no service starts while its package is installed\nexit 101\n' >"$POLICY"
  chmod 0755 "$POLICY"
  mkdir -p "$(dirname "$NO_CLUSTER")"
  echo 'create_main_cluster = false' >"$NO_CLUSTER"
}

release_services() {
  if grep -qs wrenn-install "$POLICY"; then rm "$POLICY"; fi
  if [ -e "$POLICY.wrenn-saved" ]; then mv "$POLICY.wrenn-saved" "$POLICY"; fi
  if [ -e "$NO_CLUSTER" ]; then
    rm "$NO_CLUSTER"
    rmdir -p --ignore-fail-on-non-empty "$(dirname "$NO_CLUSTER")"
  fi
}

# disable_service keeps a server, started by no one here, from starting with the machine.
disable_service() {
  local disable=(systemctl disable "$1")
  command -v systemctl >/dev/null || disable=(update-rc.d "$1" disable)
  "${disable[@]}" >>"$log" 2>&1 || echo "could not disable the service $1: it will start with this machine" >&2
}

# --- Go -------------------------------------------------------------------------------------------------

# The version that is installed where there is none; go.work says what is needed.
GO_VERSION=1.26.8

ensure_go() {
  "$root/scripts/go-path.sh" >/dev/null 2>&1 || install_go
  link_go
}

# link_go makes the Go that was found reachable as $WRENN_CACHE/go, unless it is on the PATH.
link_go() {
  local bin
  bin=$("$root/scripts/go-path.sh")
  [ "$bin" != "$(dirname "$(command -v go || echo none)")" ] || return 0
  [ "$bin" != "$WRENN_CACHE/go/bin" ] || return 0
  mkdir -p "$WRENN_CACHE"
  ln -sfn "$(dirname "$bin")" "$WRENN_CACHE/go"
}

# install_go takes the first of three ways that works on this machine.
install_go() {
  [ "$(uname -m)" = x86_64 ] || die "Go is missing or too old: install Go $GO_VERSION or newer from https://go.dev/dl"
  need_root "Go $GO_VERSION"
  go_from_package || go_from_tarball || go_from_proxy ||
    die "could not install Go $GO_VERSION: neither a package, nor go.dev, nor the Go module proxy gave it.
Install it by hand (https://go.dev/doc/install), put it on the PATH and run this again. The log: $log"
}

go_from_package() {
  local package="golang-${GO_VERSION%.*}-go"
  apt-cache policy "$package" 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null || return 1
  install "$package"
  "$root/scripts/go-path.sh" >/dev/null 2>&1
}

go_from_tarball() {
  local file="go$GO_VERSION.linux-amd64.tar.gz" tmp
  command -v curl >/dev/null || return 1
  curl -fsSIL --connect-timeout 5 -o /dev/null "https://dl.google.com/go/$file" 2>>"$log" || return 1
  echo "installing Go $GO_VERSION from go.dev"
  tmp=$(go_tmp)
  curl -fsSL --retry 3 -o "$tmp/$file" "https://dl.google.com/go/$file" 2>>"$log" || return 1
  curl -fsSL --retry 3 -o "$tmp/sum" "https://dl.google.com/go/$file.sha256" 2>>"$log" || return 1
  echo "$(cat "$tmp/sum")  $tmp/$file" | sha256sum --check --quiet >>"$log" 2>&1 || return 1
  tar -C "$tmp" -xzf "$tmp/$file" && keep_go "$tmp/go" && rm -rf "$tmp"
}

# go_from_proxy gets the toolchain as the go command itself does: as a module, checked against the
# checksum database. Any older Go can do that; Debian's is unpacked for it, not installed.
go_from_proxy() {
  local tmp go module
  echo "installing Go $GO_VERSION through the Go module proxy"
  tmp=$(go_tmp)
  go=$(command -v go) || go=$(bootstrap_go "$tmp") || { rm -rf "$tmp"; return 1; }
  module="golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-amd64"
  (cd "$tmp" && GOMODCACHE="$tmp/mod" GOCACHE="$tmp/build" GOPATH="$tmp/path" GOFLAGS='-modcacherw' GOTOOLCHAIN=local GO111MODULE=on GOWORK=off \
    "$go" mod download "$module") >>"$log" 2>&1 || { rm -rf "$tmp"; return 1; }
  # Modules carry no modes.
  chmod -R u=rwX,go=rX "$tmp/mod/$module"
  chmod 0755 "$tmp/mod/$module"/bin/* "$tmp/mod/$module"/pkg/tool/*/*
  keep_go "$tmp/mod/$module"
  rm -rf "$tmp"
}

# bootstrap_go DIR unpacks Debian's Go in DIR and prints the path of a `go` that runs from there.
bootstrap_go() {
  local deb version
  version=$(packaged_go)
  [ -n "$version" ] || { apt update && version=$(packaged_go); } || return 1
  (cd "$1" && apt-get -q -o APT::Sandbox::User=root download "golang-$version-go" "golang-$version-src") >>"$log" 2>&1 || return 1
  for deb in "$1"/*.deb; do dpkg-deb -x "$deb" "$1/debian" || return 1; done
  printf '#!/bin/sh\nGOROOT=%s exec %s "$@"\n' "$1/debian/usr/lib/go-$version" "$1/debian/usr/lib/go-$version/bin/go" >"$1/go"
  chmod +x "$1/go"
  echo "$1/go"
}

# packaged_go prints the version that the package golang-go stands for, as in "1.19".
packaged_go() { apt-cache depends golang-go 2>/dev/null | sed -nE 's/.*Depends: golang-([0-9.]+)-go$/\1/p'; }

go_tmp() {
  mkdir -p "$WRENN_CACHE"
  mktemp -d "$WRENN_CACHE/go-install.XXXXXX"
}

# keep_go moves a finished tree to its place and links it.
keep_go() {
  rm -rf "$WRENN_CACHE/go-$GO_VERSION"
  mv "$1" "$WRENN_CACHE/go-$GO_VERSION"
  ln -sfn "go-$GO_VERSION" "$WRENN_CACHE/go"
}

need_root() { [ "$(id -u)" = 0 ] || die "missing on this machine: $1. Run this as root: sudo $0"; }

die() {
  echo "$1" >&2
  exit 1
}

main "$@"
