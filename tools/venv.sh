#!/usr/bin/env bash
# Make or refresh the virtual environment in .venv from the hashed lock, quietly.
#
# usage: tools/venv.sh [PYTHON]
#
# PYTHON is the interpreter to use; without it the first python3 that is new enough. Nothing is done when the
# environment was already made from exactly this lock. The stamp holds a checksum, not a time, because a fresh
# clone or a branch switch changes times without changing content.
set -euo pipefail
cd "$(dirname "$0")/.."

env_dir=.venv
stamp="$env_dir/ringkeep-stamp"
log="$env_dir/ringkeep-install.log"

fail() { printf 'venv: %s\n' "$*" >&2; exit 1; }

case "$(uname -s)" in
    Linux | Darwin) ;;
    *) fail "Ringkeep runs on Linux and macOS; on Windows use it inside WSL." ;;
esac

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in "$@" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && new_enough "$candidate"; then printf '%s\n' "$candidate"; return; fi
    done
    fail "Python 3.11 or newer is needed, found $(python3 --version 2>&1 || echo none). Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or say where it is: make venv PYTHON=<path>"
}

# What decides the content of the environment: the lock, and the part of pyproject.toml above the tool settings.
wanted() { { cat requirements.txt; sed -E '/^\[tool\.(mypy|ruff|pytest|importlinter)/,$d' pyproject.toml; } | cksum; }

if [ -x "$env_dir/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ] \
    && new_enough "$env_dir/bin/python"; then
    exit 0
fi

started=$SECONDS
if ! { [ -x "$env_dir/bin/python" ] && new_enough "$env_dir/bin/python" && "$env_dir/bin/python" -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python "${1:-}")
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "this Python has no venv module. Debian, Ubuntu: apt-get install python3-venv"
    rm -rf "$env_dir"
    "$python" -m venv "$env_dir" || fail "could not make $env_dir (Debian, Ubuntu: apt-get install python3-venv)"
fi

pip() {
    "$env_dir/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@" >>"$log" 2>&1 \
        || { tail -n 30 "$log" >&2; fail "pip failed; everything it said is in $log"; }
}

printf 'venv: installing %s locked packages into %s with Python %s ...\n' \
    "$(grep -c '==' requirements.txt)" "$env_dir" "$("$env_dir/bin/python" -c 'import platform; print(platform.python_version())')"
rm -f "$stamp"
: >"$log"
pip install --require-hashes --no-deps --prefer-binary -r requirements.txt
pip install --no-deps --no-build-isolation --editable .
wanted >"$stamp"
printf 'venv: ready after %s s\n' "$((SECONDS - started))"
