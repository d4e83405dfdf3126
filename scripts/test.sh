#!/usr/bin/env bash
# Runs the tests of every module with the race detector. Arguments go to `go test`.
# A lane that the machine lacks something for is skipped with one line; WRENN_REQUIRE_ALL=1 makes it fail.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=()
for module in proto envd sdk/go .; do
  echo "== go test $module"
  # Packages run one after the other: several boot VMs, and two cores are soon full.
  (cd "$module" && go test -race -p 1 -timeout 30m "$@" ./...) || failed+=("$module")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "tests failed in: ${failed[*]}" >&2
  exit 1
fi
