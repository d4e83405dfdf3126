# The promises of this template alone; images/base/smoke.sh comes first and defines check.
# shellcheck shell=sh
check "bash" prints ok bash -c 'echo ok'
# shellcheck disable=SC2016 # for the login shell
check "a login shell" prints "C.UTF-8" bash -lc 'echo $LANG'
