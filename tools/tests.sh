#!/usr/bin/env bash
# Run every test that needs no Kubernetes, in two parts, and end with one line that sums them up.
#
# usage: tools/tests.sh [WORKERS]
#
# Unit and simulation tests share nothing and run side by side. Tests of real processes run alone: they measure
# time on this machine's clock, and a second cluster beside them would be noise.
set -euo pipefail
cd "$(dirname "$0")/.."

workers=${1:-2}
passed=0 failed=0 skipped=0 status=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT

count() {  # count WORDS: what pytest's summary line says about them, 0 if it says nothing
    local number
    number=$(grep -E '(passed|failed|skipped|error|xfailed|no tests ran).* in [0-9.]+s' "$output" | tail -n 1 \
        | grep -oE "[0-9]+ ($1)\\b" | awk '{ sum += $1 } END { print sum + 0 }') || number=0
    printf '%s\n' "${number:-0}"
}

part() {  # part NAME ARGUMENTS...: run pytest once and add up what it says
    local name=$1 started=$SECONDS code=0
    shift
    .venv/bin/python -m pytest -q --color=no "$@" 2>&1 | tee "$output" || code=$?
    # 5: nothing was selected, which is no failure of any test.
    if [ "$code" -ne 0 ] && [ "$code" -ne 5 ]; then status=1; fi
    passed=$((passed + $(count 'passed|xfailed')))
    failed=$((failed + $(count 'failed|errors?|xpassed')))
    skipped=$((skipped + $(count 'skipped')))
    printf '%s: %s s\n' "$name" "$((SECONDS - started))"
}

part "unit and simulation tests" --durations=15 --durations-min=5 -n "$workers" --dist worksteal -m "not cluster and not e2e" tests
part "tests of real processes" --durations=10 --durations-min=5 -m "cluster" tests

# A run without a single test proves nothing, and a crash of pytest itself has no failed test to show.
if [ "$passed" -eq 0 ]; then status=1; fi
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then echo "tests: pytest ended without a verdict" >&2; failed=1; fi
summary="$passed passed, $failed failed"
if [ "$skipped" -gt 0 ]; then summary="$summary, $skipped skipped"; fi
printf '%s\n' "$summary"
exit "$status"
