# Debian packages of the guest's release, from whatever mirror this machine's apt uses.
# The mirror is only used to build: images carry the ordinary deb.debian.org sources.
# shellcheck shell=bash

DEBIAN_SUITE=bookworm
# The suite's public keys, from Debian's package debian-archive-keyring: Ubuntu 22.04's version lacks them.
DEBIAN_KEYS=$(cd "$(dirname "${BASH_SOURCE[0]}")/../base" && pwd)/debian-bookworm.asc

# debian_sources prints the apt lines to build from. WRENN_DEBIAN_MIRROR and
# WRENN_DEBIAN_SECURITY_MIRROR override what this machine's apt is set up with.
debian_sources() {
  local main security
  main=${WRENN_DEBIAN_MIRROR:-$(apt_repository Debian)}
  security=${WRENN_DEBIAN_SECURITY_MIRROR:-$(apt_repository Debian-Security)}
  main=${main:-http://deb.debian.org/debian}
  security=${security:-http://deb.debian.org/debian-security}
  set -- "[arch=amd64 signed-by=$DEBIAN_KEYS]"
  echo "deb $1 $main $DEBIAN_SUITE main"
  echo "deb $1 $main $DEBIAN_SUITE-updates main"
  echo "deb $1 $security $DEBIAN_SUITE-security main"
}

# apt_repository LABEL prints the address of the first repository with that label in its Release file.
apt_repository() {
  # shellcheck disable=SC2016 # apt's own placeholders
  apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -v label="$1" '$1 == label && !found { print $2; found = 1 }' | sed 's,/$,,'
}

# apt_acquire prints how this machine's apt reaches its mirrors (proxies, checks), as apt configuration.
apt_acquire() {
  apt-config dump | grep -E '^Acquire::(https?::|Check-|ForceIPv|Retries)' || true
}

# debian_download PACKAGE DIR fetches a package of the suite with an apt state of its own,
# so that it works on any Debian or Ubuntu and changes nothing on the machine.
debian_download() {
  debian_apt "$2" update -q
  (cd "$2" && debian_apt "$2" download -q "$1")
}

# debian_apt DIR ARGUMENTS… runs apt-get for the suite, with its state in DIR.
debian_apt() {
  local dir=$1
  shift
  mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
  [ -e "$dir/apt/sources.list" ] || debian_sources >"$dir/apt/sources.list"
  apt-get -o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$dir/apt" \
    -o Dir::State::Status=/dev/null -o APT::Architecture=amd64 -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User=root "$@"
}
