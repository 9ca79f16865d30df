#!/usr/bin/env bash
# Format, lint, types and import contracts. All four always run, so one call shows everything that is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

sources=()
for folder in core node client operator helm tests benchmarks tools; do
    if [ -d "$folder" ]; then sources+=("$folder"); fi
done
typed=()
for folder in core node client operator tests benchmarks; do
    if [ -n "$(find "$folder" -name '*.py' -print -quit 2>/dev/null)" ]; then typed+=("$folder"); fi
done

failed=0
step() {
    local name=$1 started=$SECONDS
    shift
    if "$@"; then
        printf 'lint: %s ok, %s s\n' "$name" "$((SECONDS - started))"
    else
        printf 'lint: %s FAILED\n' "$name"
        failed=1
    fi
}
py=.venv/bin/python
step "ruff format" "$py" -m ruff format --check --quiet "${sources[@]}"
step "ruff check" "$py" -m ruff check --quiet "${sources[@]}"
step "mypy strict" "$py" -m mypy --no-error-summary "${typed[@]}"
# The contracts name the packages as they are installed, so this runs without the tree on the path.
step "import contracts" .venv/bin/lint-imports --no-logo
exit "$failed"
