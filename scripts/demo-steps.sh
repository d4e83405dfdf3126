#!/usr/bin/env bash
# What a user does with Wrenn, step by step, each timed. Runs under `wrenn up -- scripts/demo-steps.sh`, which
# sets WRENN_URL and WRENN_API_KEY.
set -euo pipefail
cd "$(dirname "$0")/.."
wrenn=bin/wrenn
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rows=()
now() { date +%s%N; }
row() { rows+=("$(printf '%-46s %9.1f ms' "$1" "$(awk "BEGIN{print ($3-$2)/1e6}")")"); }
step() { # step NAME COMMAND...: runs the command and notes how long it took
  local name=$1 begin end; shift
  begin=$(now); "$@"; end=$(now)
  row "$name" "$begin" "$end"
}
row "start everything, make an API key" "$DEMO_STARTED" "$(now)"

cat >"$work/hello.py" <<'PY'
import os, platform, socket, sys
print(f"Hello from Python {platform.python_version()} in sandbox {socket.gethostname()}")
print(f"own kernel: {platform.release()}, {os.cpu_count()} CPU, pid 1 is {open('/proc/1/comm').read().strip()}")
numbers = [int(line) for line in open("/home/user/numbers.txt")]
with open("/home/user/result.txt", "w") as out:
    out.write(f"{len(numbers)} numbers, sum {sum(numbers)}\n")
sys.exit(0)
PY
seq 1 1000 >"$work/numbers.txt"

create() { id=$($wrenn create python311 --memory 256); }
step "POST /v1/sandboxes (python311)" create
echo; echo "sandbox $id is running. Its creation, as the API tells it:"
$wrenn info "$id"
step "first exec: true" $wrenn exec "$id" -- true
step "file in: hello.py" $wrenn cp "$work/hello.py" "$id:/home/user/hello.py"
step "file in: numbers.txt" $wrenn cp "$work/numbers.txt" "$id:/home/user/numbers.txt"
echo; echo "--- output of hello.py, from inside the VM ---"
step "exec: python3 hello.py" $wrenn exec "$id" -- python3 /home/user/hello.py
echo "--- end of output ---"
step "exec again: python3 hello.py (warm)" $wrenn exec "$id" -- python3 /home/user/hello.py >/dev/null
step "file out: result.txt" $wrenn cp "$id:/home/user/result.txt" "$work/result.txt"
echo "what came out: $(cat "$work/result.txt")"
[ "$(cat "$work/result.txt")" = "1000 numbers, sum 500500" ] || { echo "the file that came out is wrong" >&2; exit 1; }
step "DELETE /v1/sandboxes/$id" $wrenn rm "$id"

echo; printf '%s\n' "${rows[@]}"; echo
