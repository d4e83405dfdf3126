# The promises of this template alone; images/base/smoke.sh comes first and defines check.
# shellcheck shell=sh
check "python3 is 3.11" prints "(3, 11)" python3 -c 'import sys; print(sys.version_info[:2])'
check "python is python3" prints 42 python -c 'print(6 * 7)'
check "pip" python3 -m pip --version
check "pip as a command" pip --version
check "pip may install outside a virtual environment" sh -c 'pip install --no-index absent 2>&1 | grep "No matching distribution"'
check "venv with pip" sh -c 'python3 -m venv /tmp/venv && /tmp/venv/bin/pip --version'
check "TLS trusts the CA bundle" python3 -c 'import ssl; assert len(ssl.create_default_context().get_ca_certs()) > 100'
check "sqlite, zlib, lzma, ctypes" python3 -c 'import sqlite3, zlib, lzma, bz2, ctypes, uuid'
check "time zones" python3 -c 'import zoneinfo; zoneinfo.ZoneInfo("Europe/Berlin")'
check "the standard library is compiled" test -e /usr/lib/python3.11/__pycache__/os.cpython-311.pyc
check "git" git --version
check "the Python kernel keeps variables" kernel_keeps python 'x = 41' 'x + 1' 42
