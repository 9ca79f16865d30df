#!/usr/bin/env bash
# Add up the last lines of test runs ("12 passed, 1 failed, 2 skipped") into one line of the same form.
#
# usage: tools/sum_up.sh LAYERS_FAILED LOG...
#
# LAYERS_FAILED names the layers that failed, "" for none: one that failed before its first test counts as a failed
# test. A log that is missing, or has no such line, adds nothing; without any line nothing was proven: 1 failed.
# The exit code is 0 only if nothing failed.
set -euo pipefail

layers_failed=$1
shift
{ cat "$@" 2>/dev/null || true; } | awk -v layers_failed="$layers_failed" '
    /^[0-9]+ passed, [0-9]+ failed/ {
        seen = 1
        passed += $1
        failed += $3
        if ($6 ~ /^skipped/) skipped += $5
    }
    END {
        if (!seen || (layers_failed != "" && failed == 0)) failed++
        printf "%d passed, %d failed", passed, failed
        if (skipped > 0) printf ", %d skipped", skipped
        printf "\n"
        exit failed > 0
    }'
