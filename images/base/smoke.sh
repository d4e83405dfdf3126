# What every template promises. The template's own smoke.sh follows in the same file; it runs as `user`.
# shellcheck shell=sh
failures=0

# check WHAT COMMAND… reports whether the command succeeds, and its output when it does not.
check() {
  what=$1
  shift
  if out=$("$@" 2>&1); then
    echo "ok: $what"
  else
    echo "FAILED: $what: $out"
    failures=$((failures + 1))
  fi
}

# prints EXPECTED COMMAND… succeeds when the command prints exactly that.
prints() {
  expected=$1
  shift
  got=$("$@" 2>&1)
  [ "$got" = "$expected" ] || { echo "expected '$expected', got '$got'"; return 1; }
}

at_least() { [ "$2" -ge "$1" ] || { echo "$2 < $1"; return 1; }; }

# kernel_keeps LANGUAGE CODE CODE TEXT succeeds when the second cell, after the first, has that result.
kernel_keeps() {
  printf '{"id":"%s","op":"execute","code":"%s"}\n' 1 "$2" 2 "$3" | "/usr/local/lib/wrenn/kernel-$1" | grep -F "\"text/plain\":\"$4\""
}

check "user is 1000:1000" prints "uid=1000(user) gid=1000(user) groups=1000(user)" id
check "the home folder is the user's" touch /home/user/.smoke
check "the temporary folders are everybody's" prints "/tmp 1777 /var/tmp 1777 " stat --printf '%n %a ' /tmp /var/tmp
check "the own name resolves" getent hosts sandbox
check "sudo asks for no password" prints 0 sudo -n id -u
check "envd is root's" prints "root:root 755" stat -c '%U:%G %a' /usr/local/bin/envd
check "the user can change no program" prints "" find /usr/bin /usr/sbin /usr/lib /usr/local -writable ! -type l
check "CA certificates" at_least 100 "$(grep -c BEGIN /etc/ssl/certs/ca-certificates.crt)"
check "UTF-8 locale" prints UTF-8 locale charmap
check "machine-id is empty" prints 0 stat -c %s /etc/machine-id
check "resolv.conf and hostname are plain files" test ! -L /etc/resolv.conf -a -f /etc/resolv.conf -a ! -L /etc/hostname -a -f /etc/hostname
check "apt uses Debian's own mirrors" prints "deb.debian.org" sh -c "apt-get --print-uris update | cut -d/ -f3 | sort -u"
check "no setting of the build machine in apt's" prints "" sh -c "apt-config dump | grep -iE 'proxy|check-valid'"
check "no package lists" prints "" find /var/lib/apt/lists -type f
check "packages are consistent" prints "" dpkg --audit
check "curl" curl --version
check "ip" ip -brief address show dev lo
check "ps" ps -e
check "ping" ping -c 1 -W 5 127.0.0.1
check "the disk has grown" at_least 7600 "$(df --output=size -m / | tail -1)"
